"""Who may hold memory now: it is shared, and given back whatever happens."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.allowance import Allowance
from gateway.deadline import Deadline
from gateway.errors import Overloaded, TooManyAtOnce
from gateway.metrics import Metrics


def soon() -> Deadline:
    return Deadline.after(30.0)


def refused(metrics: Metrics, reason: str) -> float | None:
    return metrics.registry.get_sample_value("hemavision_refused_total", {"reason": reason})


async def test_what_finds_no_room_in_time_is_told_to_come_back():
    """After the longest wait there is, and counted by its reason."""
    metrics = Metrics()
    allowance = Allowance(100, 0.01, metrics)
    async with allowance.of(60, soon()):
        with pytest.raises(Overloaded, match="Try again") as caught:
            await allowance.of(41, soon()).__aenter__()
        async with allowance.of(40, soon()):
            pass
    assert refused(metrics, "memory") == 1
    assert caught.value.retry_after == 1
    assert not caught.value.short_of_time


async def test_the_wait_ends_with_the_requests_own_time():
    """Then it is known that more time might have helped."""
    allowance = Allowance(100, 30.0, Metrics())
    async with allowance.of(60, soon()):
        with pytest.raises(Overloaded) as caught:
            await allowance.of(41, Deadline.after(0.01)).__aenter__()
    assert caught.value.short_of_time


async def test_one_client_leaves_room_for_the_others():
    """It may have half; what is larger than that only as long as it has nothing else."""
    metrics = Metrics()
    allowance = Allowance(100, 0.0, metrics, share=0.5)
    async with allowance.of(30, soon(), "eager"):
        with pytest.raises(TooManyAtOnce, match="one client") as caught:
            await allowance.of(21, soon(), "eager").__aenter__()
        assert caught.value.retry_after == 1
        async with allowance.of(70, soon(), "modest"):
            pass
    async with allowance.of(100, soon(), "eager"):
        pass
    assert refused(metrics, "client") == 1


async def test_what_is_there_is_had_at_once():
    """Even without time left: there is no wait, and none is told."""
    async with Allowance(100, 30.0, Metrics()).of(100, Deadline.after(0.0)) as waited:
        assert waited.ms == 0


async def test_a_failure_gives_its_share_back():
    """A damaged picture does not narrow the way for the next."""
    allowance = Allowance(100, 0.0, Metrics())
    for _ in range(3):
        with pytest.raises(ValueError, match="damaged"):
            async with allowance.of(100, soon()):
                raise ValueError("damaged")


async def test_who_stops_waiting_leaves_no_gap():
    """A cancelled wait takes nothing with it."""
    allowance = Allowance(100, 30.0, Metrics())
    async with allowance.of(100, soon()):
        waiter = asyncio.create_task(allowance.of(1, soon()).__aenter__())
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
    async with allowance.of(100, Deadline.after(0.0)):
        pass


async def test_who_is_cancelled_tells_those_who_wait():
    """What he held is given back at once, and all who wait look whether it is enough."""
    allowance, never = Allowance(100, 30.0, Metrics()), asyncio.Event()

    async def hold(weight: int, until: asyncio.Event) -> None:
        async with allowance.of(weight, soon()):
            await until.wait()

    holding = asyncio.create_task(hold(80, never))
    await asyncio.sleep(0)
    never_enough = asyncio.create_task(hold(100, never))
    async with allowance.of(10, soon()):
        waiting = [asyncio.create_task(allowance.of(45, soon()).__aenter__()) for _ in range(2)]
        await asyncio.sleep(0)
        holding.cancel()
        async with asyncio.timeout(5):
            await asyncio.gather(*waiting)
    never_enough.cancel()


async def test_one_that_waits_goes_on_when_there_is_room():
    """It is woken by whoever gives the room back."""
    allowance = Allowance(100, 30.0, Metrics())
    order = []

    async def large(name: str) -> None:
        async with allowance.of(70, soon()):
            order.append(f"{name} in")
            await asyncio.sleep(0)
            order.append(f"{name} out")

    await asyncio.gather(large("a"), large("b"), large("c"))
    assert [entry.split()[1] for entry in order] == ["in", "out"] * 3


@given(st.lists(st.integers(1, 100), min_size=1, max_size=30))
def test_never_more_than_the_whole_is_given_out(weights):
    """Whatever comes at once, all of it is served, and together they never hold more."""
    held = [0]

    async def one(allowance: Allowance, weight: int) -> None:
        async with allowance.of(weight, soon()):
            held.append(held[-1] + weight)
            await asyncio.sleep(0)
            held.append(held[-1] - weight)

    async def all_of_them() -> None:
        allowance = Allowance(100, 30.0, Metrics())
        await asyncio.gather(*(one(allowance, weight) for weight in weights))

    asyncio.run(all_of_them())
    assert max(held) <= 100
    assert held[-1] == 0
