"""From labelled photographs to a model that TensorFlow Serving can serve.

In the order of the work: ``sources`` turns published data sets into a data folder, ``dataset``
reads its photographs, ``augment`` varies them as microscopes do, ``architecture`` is the network,
``train`` fits it, ``weights`` reads and converts weight files, ``gradcam`` explains inside the
graph, ``optimise`` folds what need not be worked out each time, ``familiarity`` tells what the
network has never seen, ``answers`` asks a network or a server, ``evaluate`` measures what they
say, ``report`` puts a whole evaluation together, ``figures`` draws it, ``card`` writes it for
people, ``release`` calibrates and makes the weights that are served, ``trust`` measures how far
their heat maps can be trusted, ``trust_report`` shows it, ``slides`` measures how well cells are
counted, ``slides_report`` shows it, ``ablate`` finds what each choice of the recipe is worth,
``atomic`` keeps files whole, ``warmup`` makes the server ready before its first request,
``fingerprint`` tells exporters apart, ``saved_model`` writes a servable version, ``smear`` draws
samples, ``verify`` admits a version or not, ``processor`` tells what the machine can do,
``local_server`` serves a version where there is no Docker, ``variants`` runs the weights in
several ways, ``speed`` measures how fast each is, ``agreement`` how exact, and ``speed_report``
shows both. ``cli`` is the console.
"""
