"""From labelled photographs to a model that TensorFlow Serving can serve.

In the order of the work: ``dataset`` reads the photographs, ``augment`` varies them as
microscopes do, ``architecture`` is the network, ``train`` fits it, ``weights`` reads and
converts weight files, ``gradcam`` explains inside the graph, ``warmup`` makes the server
ready before its first request, ``saved_model`` writes a servable version, ``verify`` admits
it or not, and ``local_server`` serves it where there is no Docker. ``cli`` is the console.
"""
