"""Who may decode now: memory is shared, and given back whatever happens."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.allowance import Allowance
from gateway.errors import Overloaded, PhotographTooLarge


async def test_what_would_never_fit_is_refused():
    """At once, and with both figures in megabytes."""
    with pytest.raises(PhotographTooLarge, match=r"400 MB.*100 MB"):
        async with Allowance(100 << 20).of(400 << 20, 1.0):
            pass


async def test_what_finds_no_room_in_time_is_told_to_come_back():
    """The wait ends with the request's own time."""
    allowance = Allowance(100)
    async with allowance.of(60, 1.0):
        with pytest.raises(Overloaded, match="Try again"):
            async with allowance.of(41, 0.0):
                pass
        async with allowance.of(40, 0.0):
            pass


async def test_a_failure_gives_its_share_back():
    """A damaged picture does not narrow the way for the next."""
    allowance = Allowance(100)
    for _ in range(3):
        with pytest.raises(ValueError, match="damaged"):
            async with allowance.of(100, 1.0):
                raise ValueError("damaged")


async def test_one_that_waits_goes_on_when_there_is_room():
    """It is woken by whoever gives the room back."""
    allowance = Allowance(100)
    order = []

    async def large(name: str) -> None:
        async with allowance.of(70, 30.0):
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
        async with allowance.of(weight, 30.0):
            held.append(held[-1] + weight)
            await asyncio.sleep(0)
            held.append(held[-1] - weight)

    async def all_of_them() -> None:
        allowance = Allowance(100)
        await asyncio.gather(*(one(allowance, weight) for weight in weights))

    asyncio.run(all_of_them())
    assert max(held) <= 100
    assert held[-1] == 0
