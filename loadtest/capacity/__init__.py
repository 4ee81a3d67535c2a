"""How many replicas for N photographs a second: `python -m loadtest.capacity`.

A replica here is a gateway with a model server of its own on this machine's cores. In each of
several rounds it is measured by lone requests, in closed loops with 1, 2, … clients, as many as its
gateway lets in at once, and in open loops with Poisson arrivals at several shares of what that
gives. From all but these comes a queue (``queueing.Replica``), which predicts them: nothing is
fitted to these. Where it is right about them it says the highest rate at which 99 % are answered
within the objective, though none higher than was measured; and from that comes the table.

Photographs are counted as spread over replicas at random, so that each meets a Poisson process
again. Balancing evens the arrivals out, so there will rather be fewer needed.

``measure`` takes the times, ``model`` makes the queue and judges it, ``report`` shows both and the
table.
"""

from __future__ import annotations

OBJECTIVE = (0.99, 0.2)
"""Share of photographs, and the seconds within which they are to be answered."""

MOST_OFF = 0.3
"""By what part the predicted percentiles may differ from the measured ones, up or down: the root
mean square of their logarithms, so that a factor of 1.3 is too much, and of 1 / 1.3."""

PLANNED = {"model servers": 0.6, "gateways": 0.5}
"""How busy k8s/README.md plans the cores of each to be at the peak."""
