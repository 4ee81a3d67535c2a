"""The HTTP gateway in front of TensorFlow Serving.

The modules, in the order in which a request meets them: ``cli`` is the console, ``ask`` a client
for it and ``up`` what it starts; ``app`` wires the service, ``middleware`` surrounds every
request, ``handlers`` speak HTTP, ``wire`` names the reply's fields, ``admission`` lets requests
in, ``pipeline`` is the whole way from a photograph to an answer (read it first),
``model_client`` talks to the model server, and ``imaging``, ``heatmap``, ``quality`` and
``annotation`` are the pure steps on the way. Below all of them: ``contract``, ``errors``,
``settings`` and ``metrics``. Imports point down this list only.
"""
