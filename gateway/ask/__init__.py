"""Ask a running gateway from a terminal: `hemavision classify` and `hemavision check`.

``classify`` and ``check`` are the two commands. ``photographs`` finds what is to be sent,
``client`` is the one place that sends, ``crew`` does several at once and keeps their order,
``overlays`` writes heat maps, ``outcome`` is what became of one photograph; ``block`` shows one
and ``table`` many, with what ``terminal`` knows of screens. The service's modules are not
imported, nor anything that is slow to import: a health check starts this every few seconds.
"""
