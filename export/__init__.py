"""From labelled photographs to a model that TensorFlow Serving can serve.

In the order of the work: ``dataset`` reads the photographs, ``augment`` varies them as
microscopes do, ``architecture`` is the network, ``train`` fits it, ``weights`` reads and converts
weight files, ``evaluate`` measures, ``release`` calibrates and writes the model card, ``gradcam``
explains inside the graph, ``warmup`` makes the server ready before its first request,
``fingerprint`` tells exporters apart, ``saved_model`` writes a servable version, ``smear`` draws
samples, ``verify`` admits a version or not, and ``local_server`` serves it where there is no
Docker. ``cli`` is the console.
"""
