"""The same service as others would write it: what `loadtest.bench` compares with.

``flask_app`` does what the original application does, ``fastapi_app`` what a competent user of
the same SavedModel would, and ``aiohttp_app`` about the least that a gateway does. Each is a
process of its own, takes no code from the gateway, and prints its address once it is warm.
"""
