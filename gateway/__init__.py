"""The HTTP gateway in front of TensorFlow Serving.

The modules, in the order in which a request meets them: ``cli`` is the console, ``ask`` a client
for it and ``up`` what it starts; ``server`` takes the connections, ``app`` wires the service from
the table in ``routes``, ``middleware`` surrounds every request, ``access`` asks for a key, which
``keys`` knows, ``handlers`` speak HTTP, and for whole smears ``counter`` does. For them ``cors``
tells other origins what they may, ``query`` reads options, ``body`` photographs and ``accept`` what
the client takes; ``reply`` makes replies, ``wire`` names their fields, and ``openapi`` describes it
all from the same declarations. A series of photographs comes through ``upload``, its zips through
``zipped`` and a reader's ``words`` with them; ``series`` has it classified, ``smear`` is what
became of it, ``wire_series`` its JSON, ``documents`` its other forms, and ``recount`` reads that
when it comes back. ``card`` is the model's own. ``admission`` lets requests in, ``readiness`` tells
probes whether there is a model, ``pipeline`` is the whole way from a photograph to an answer (read
it first), ``warming`` goes it once before the first, ``canary`` asks a version on trial now and
then, ``model_client`` talks to the model server, ``allowance`` keeps uploads and large pictures
from filling the memory, and ``imaging`` (with ``header`` and ``pixels`` below it), ``heatmap``,
``quality`` and ``annotation`` are the pure steps on the way. ``differential`` counts many cells:
``correction`` undoes the model's ``confusion``, ``limits`` are exact, ``ranges`` the laboratory's.
``finding`` puts into words what its shares say, and ``sheet`` prints them, with a ``chart`` of
each; ``fhir`` says them to other systems. Below all of them: ``telemetry`` decides whether spans
are recorded and ``recorder`` does it, ``logs`` writes the log, ``tls`` reads certificates, then
``settings``, ``metrics``, ``tracing`` (the request in hand), what tells whether to try
(``deadline`` and ``breaker``) and whether to go on (``lifecycle``), ``tracecontext``, ``markup``
and ``figures`` for people, ``certificate`` tells when one ends, ``contract`` and ``errors``.
Imports point down this list only.
"""
