"""Ask a running gateway from a terminal: `hemavision classify`, `differential` and `check`.

``classify``, ``differential`` and ``check`` are the commands. ``photographs`` finds what is to be
sent and ``series`` makes one form of it, ``client`` is the one place that sends, through a
``duplex``; ``crew`` does several at once and keeps their order, ``overlays`` writes heat maps into
``files``, ``outcome`` is what became of one photograph; ``block`` shows one, ``table`` many and
``count`` their count, with what ``terminal`` knows of screens. Of the service nothing is imported
but how figures are written, nor anything that is slow to import: a health check starts this every
few seconds.
"""
