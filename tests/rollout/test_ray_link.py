"""What whoever asks an actor hears when the way to it breaks. Ray itself is a stand-in."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import run

from agent_gym.errors import WorkerError
from agent_gym.rollout.ray_actor import Call
from agent_gym.rollout.ray_link import Link


class RayError(Exception):
    """Stands in for Ray's own."""


class Owner:
    """Whose connection breaks as soon as somebody says anything."""

    timeout = 5.0

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.ray = SimpleNamespace(exceptions=SimpleNamespace(RayError=RayError), get=self.broken, kill=self.broken)
        self.ray.wait = self.broken
        self.losses: list[Link] = []

    def broken(self, *_: Any, **__: Any) -> Any:
        raise self.error

    def lost(self, link: Link) -> None:
        self.losses.append(link)

    def link(self, *, sending: bool) -> Link:
        """Return a link; where sending works, it is waiting that does not."""

        async def answer() -> Any:
            self.broken()

        method = SimpleNamespace(remote=(lambda *_: answer()) if sending else self.broken)
        method.options = lambda **_: method
        place = SimpleNamespace(remote=lambda: None)
        actor = SimpleNamespace(place=place, serve=method, answer=method, _actor_id=b"12345678")
        return Link(self, actor)


ERRORS = [RayError("dead"), ConnectionError("the other end has hung up"), TimeoutError()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_connection_that_breaks_while_one_asks_is_an_actor_that_is_lost(error: Exception) -> None:
    owner = Owner(error)
    link = owner.link(sending=False)
    link.tell(Call(0, "close"))
    with pytest.raises(WorkerError, match=r"Ray actor 31323334"):
        link.ask(Call(0, "step"))
    assert owner.losses == [link]
    with pytest.raises(WorkerError):
        link.ask(Call(0, "step"))
    link.end()
    assert owner.losses == [link]


@pytest.mark.parametrize("sending", [True, False])
@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_all_who_wait_for_an_answer_hear_that_the_connection_broke(
    error: Exception, waits: bool, sending: bool
) -> None:
    owner = Owner(error)
    link = owner.link(sending=sending)

    async def ask() -> list[Any]:
        asked = [link.soon(Call(slot, "step"), waits=waits) for slot in range(3)]
        async with asyncio.timeout(5):
            return await asyncio.gather(*asked, return_exceptions=True)

    assert [type(each) for each in run(ask())] == [WorkerError] * 3
    assert owner.losses == [link]


def test_an_actor_that_is_lost_before_it_was_there_is_not_ready() -> None:
    owner = Owner(ConnectionError())
    link = owner.link(sending=False)
    assert not link.ready() and owner.losses == [link]
