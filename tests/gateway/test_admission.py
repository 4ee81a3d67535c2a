"""Who is let in, who waits, and who is turned away."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from gateway.admission import Admission, Limits
from gateway.deadline import Deadline
from gateway.errors import Overloaded, TooManyAtOnce
from gateway.metrics import Metrics


class Desk:
    """An admission with a clock that is set by hand, and its metrics."""

    def __init__(self, clock, in_flight=1, waiting=2, wait=30.0, client_share=1.0):
        self.clock, self.metrics = clock, Metrics()
        limits = Limits(in_flight, waiting, wait, client_share)
        self.admission = Admission(limits, self.metrics, self.clock)

    def place(self, client="one", seconds=60.0, **options):
        """Ask for a place."""
        return self.admission.place(client, Deadline.after(seconds, self.clock), **options)

    async def answer(self, seconds: float) -> None:
        """Let one photograph take ``seconds``."""
        async with self.place():
            self.clock.now += seconds
            self.admission.answered(seconds)

    def value(self, name: str, **labels: str) -> float | None:
        """Read a metric."""
        return self.metrics.registry.get_sample_value(f"hemavision_{name}", labels)

    @asynccontextmanager
    async def waiter(self, client="one", seconds=60.0, entered=None, name=""):
        """Somebody who waits for a place and gives it back at once."""

        async def wait():
            async with self.place(client, seconds):
                entered.append(name)

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        yield task


async def test_places_are_given_in_the_order_of_arrival(clock):
    """First come, first served; the gauges say how many are where."""
    desk, entered = Desk(clock), []
    async with desk.waiter(entered=entered, name="a") as first:
        await first
    async with (
        desk.place(),
        desk.waiter(entered=entered, name="b") as second,
        desk.waiter(entered=entered, name="c") as third,
    ):
        assert desk.value("photographs_in_flight") == 1
        assert desk.value("photographs_waiting") == 2
    await asyncio.gather(second, third)
    assert entered == ["a", "b", "c"]
    assert desk.value("photographs_in_flight") == 0
    assert desk.value("photographs_waiting") == 0


async def test_a_full_queue_refuses_at_once(clock):
    """No more wait than may; who is refused is told when to come back."""
    desk = Desk(clock, waiting=1)
    async with desk.place(), desk.waiter(entered=[]) as waiter:
        with pytest.raises(Overloaded, match="1 are waiting already"):
            await desk.place().__aenter__()
    await waiter
    assert desk.value("refused_total", reason="queue") == 1


async def test_a_wait_that_will_be_too_long_is_refused_at_once(clock):
    """Two seconds a photograph and one second of patience: nobody has to find out by waiting."""
    desk = Desk(clock, wait=1.0)
    await desk.answer(2.0)
    async with desk.place():
        with pytest.raises(Overloaded) as caught:
            await desk.place().__aenter__()
    assert caught.value.retry_after == pytest.approx(2.0)
    assert desk.value("refused_total", reason="wait") == 1


async def test_the_wait_shrinks_with_the_deadline(clock):
    """Five seconds left, two a photograph: the first who waits makes it, the second would not."""
    desk = Desk(clock, waiting=9)
    await desk.answer(2.0)
    async with desk.place(), desk.waiter(entered=[], seconds=5.0) as waiter:
        with pytest.raises(Overloaded, match="can wait 3 s"):
            await desk.place(seconds=5.0).__aenter__()
    await waiter
    assert desk.value("refused_total", reason="deadline") == 1


async def test_too_little_time_is_refused_even_where_a_place_is_free(clock):
    """Work that will be late is not begun."""
    desk = Desk(clock)
    await desk.answer(2.0)
    with pytest.raises(Overloaded, match=r"0\.5 s are left") as caught:
        await desk.place(seconds=0.5).__aenter__()
    assert caught.value.short_of_time


async def test_who_makes_do_with_less_is_let_in(clock):
    """A request that can be answered without its heat map does not need the usual time."""
    desk = Desk(clock)
    await desk.answer(2.0)
    async with desk.place(seconds=0.5, flexible=True):
        assert desk.value("photographs_in_flight") == 1


async def test_a_slow_spell_does_not_lock_the_door(clock):
    """Where nothing was answered for a while, what it took then is forgotten."""
    desk = Desk(clock)
    await desk.answer(5.0)
    desk.clock.now += 10.0
    async with desk.place(seconds=0.5):
        assert desk.value("photographs_in_flight") == 1


async def test_a_wait_ends_with_the_requests_time(clock):
    """Where that is shorter than the longest wait, it is the reason."""
    desk = Desk(clock, wait=30.0)
    async with desk.place():
        with pytest.raises(Overloaded, match="came free") as caught:
            await desk.place(seconds=0.01).__aenter__()
    assert caught.value.short_of_time
    assert desk.value("refused_total", reason="deadline") == 1


async def test_a_wait_ends(clock):
    """None came free in time: refused, and the place in the queue is free again."""
    desk = Desk(clock, waiting=1, wait=0.01)
    async with desk.place():
        for _ in range(3):
            with pytest.raises(Overloaded, match="came free") as caught:
                await desk.place().__aenter__()
    assert not caught.value.short_of_time
    assert desk.value("refused_total", reason="wait") == 3
    assert desk.value("photographs_waiting") == 0


async def test_who_stops_waiting_leaves_no_gap(clock):
    """A cancelled wait takes no place with it."""
    desk = Desk(clock)
    async with desk.place(), desk.waiter(entered=[]) as waiter:
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
    async with desk.place():
        assert desk.value("photographs_in_flight") == 1


async def test_one_client_leaves_room_for_the_others(clock):
    """Half of four is two: the third of one client is refused, and another's let in."""
    desk = Desk(clock, in_flight=2, waiting=2, client_share=0.5)
    async with desk.place("eager"), desk.place("eager"):
        with pytest.raises(TooManyAtOnce, match="2 photographs") as caught:
            await desk.place("eager").__aenter__()
        assert caught.value.retry_after is not None
        async with desk.waiter("modest", entered=[]) as waiter:
            assert desk.value("photographs_waiting") == 1
    await waiter
    assert desk.value("refused_total", reason="client") == 1
    async with desk.place("eager"):
        assert desk.value("photographs_in_flight") == 1


async def test_what_failed_says_nothing_about_the_time(clock):
    """Refused photographs are quick: they do not make the others seem so."""
    desk = Desk(clock)
    await desk.answer(2.0)
    with pytest.raises(LookupError):
        async with desk.place():
            raise LookupError
    with pytest.raises(Overloaded):
        await desk.place(seconds=1.9).__aenter__()
