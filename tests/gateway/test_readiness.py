"""Whether there is a model: asked seldom, and once for all who ask."""

import asyncio

import pytest

from gateway.deadline import Deadline
from gateway.errors import ModelUnavailable
from gateway.readiness import Readiness


class Server:
    """A model server that counts how often it is asked."""

    def __init__(self, *answers: int | Exception):
        self.answers, self.patience, self.open = list(answers), [], asyncio.Event()

    async def available_version(self, deadline: Deadline) -> int:
        """Give the next answer, once it is open."""
        self.patience.append(deadline.remaining())
        await self.open.wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_probes_at_the_same_time_share_one_call():
    """Though one of them goes away, even the one that began it."""
    server = Server(7)
    readiness = Readiness(server)
    first, *others = (asyncio.create_task(readiness.version()) for _ in range(5))
    await asyncio.sleep(0)
    first.cancel()
    server.open.set()
    assert await asyncio.gather(*others) == [7, 7, 7, 7]
    assert len(server.patience) == 1


async def test_an_answer_is_good_for_a_second(clock):
    """Then the next probe asks again."""
    server = Server(7, 8)
    server.open.set()
    readiness = Readiness(server, clock)
    assert await readiness.version() == 7
    clock.now += 0.9
    assert await readiness.version() == 7
    clock.now += 0.1
    assert await readiness.version() == 8


async def test_so_is_a_refusal(clock):
    """A server in trouble is not asked more often than one that is well."""
    server = Server(ModelUnavailable("gone"), 8)
    server.open.set()
    readiness = Readiness(server, clock)
    for _ in range(3):
        with pytest.raises(ModelUnavailable, match="gone"):
            await readiness.version()
    clock.now += 1.0
    assert await readiness.version() == 8


async def test_it_answers_before_a_probe_gives_up():
    """Kubernetes waits for one second where nothing else is said."""
    server = Server(7)
    server.open.set()
    await Readiness(server).version()
    assert 0 < server.patience[0] < 1
