"""The gateway beside the bare model server and beside what others would write: `make bench`.

In each round every contender answers one photograph, in an order drawn anew, so that a machine
whose speed drifts slows all of them alike; then each is asked by several clients without a pause
while the others idle, in turns. What to quote are the ratios to one of them, ``BASELINE``.

``contenders`` are who is compared, ``rounds`` takes the times, ``outcome`` holds what came out,
``gate`` compares two outcomes' ratios, ``goals`` are what is wanted of them, and ``report`` and
``plots`` show them.
"""

from __future__ import annotations

BASELINE = "bare gradcam"
"""The model server alone, asked for probabilities and maps: what all else is divided by."""

WITNESS = "flask"
"""What shares nothing with us, neither the exported model nor its server: by it one sees that the
baseline became slower. FastAPI serves the model that we export, and shows nothing."""
