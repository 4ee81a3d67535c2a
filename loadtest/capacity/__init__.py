"""How many replicas for N photographs a second: `python -m loadtest.capacity`.

A replica here is a gateway with a model server of its own on this machine's cores. It is measured
three ways: one client alone, many clients without a pause (what it can do), and an open loop with
Poisson arrivals at several shares of that. A queue with c servers (``queueing.Replica``) is fitted
to every second load; the loads between are predicted and compared. From the fit comes the highest
rate at which 99 % are answered within the objective, and from that the table.

Photographs are counted as spread over replicas at random, so that each meets a Poisson process
again. Balancing evens the arrivals out, so there will rather be fewer needed.

``measure`` takes the times, ``model`` fits the queue, ``report`` shows both and the table.
"""

from __future__ import annotations

OBJECTIVE = (0.99, 0.2)
"""Share of photographs, and the seconds within which they are to be answered."""
