"""The few messages of TensorFlow Serving that the gateway speaks, without TensorFlow.

``tensorflow-serving-api`` imports all of TensorFlow (11 s, 660 MB). On the wire only field
numbers and the methods' paths matter, so ``serving.proto`` declares the same ones under a
package of its own, and a test holds them against the official messages, both ways.
``serving_pb2.py`` and its ``.pyi`` are generated from it by ``make protos``.
"""
