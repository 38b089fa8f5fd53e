"""An engine on the server of `openai_server`, and what is asked of it; waits between tries take no time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import helpers
import pytest
from helpers import CountEnv, run
from openai_server import MODEL, Answers, FakeServer, Reply, serving

from agent_gym.engines.base import Completion, Sampling
from agent_gym.engines.openai import ChatEngine
from agent_gym.engines.retrying import Patience
from agent_gym.engines.server import Server
from agent_gym.errors import EngineError
from agent_gym.rollout.chat import MessageChat
from agent_gym.rollout.episode import Episode, EpisodeSettings
from agent_gym.tools.web import Retries
from agent_gym.trajectory import Trajectory

ASK = MessageChat().begin("hello")
PLAIN = Sampling(max_tokens=16)
once = partial(helpers.once, prompt=ASK, sampling=PLAIN)


@dataclass
class Waits:
    """The waits of a client, which take no time."""

    seconds: list[float] = field(default_factory=list)

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@contextmanager
def asking(
    answers: Answers, *, patience: Patience | None = None, listed: Reply | None = None, key: str | None = None,
    connections: int = 64, **options: Any,
) -> Iterator[tuple[FakeServer, ChatEngine, Waits]]:  # fmt: skip
    waits = Waits()
    quick = patience or Patience(Retries(tries=4, longest_wait=30.0, random=lambda: 1.0), sleep=waits)
    with serving(answers, listed) as server:
        reached = Server(server.url, key=key, patience=quick, connections=connections)
        yield server, ChatEngine(reached, MODEL, **options), waits


def said_by(answers: Answers, sampling: Sampling = PLAIN, **options: Any) -> Completion:
    with asking(answers, **options) as (_, engine, _):
        return once(engine, sampling=sampling)


def failure_of(engine: Any, prompt: Any = ASK) -> str:
    with pytest.raises(EngineError) as caught:
        once(engine, prompt=prompt)
    return str(caught.value)


def in_turn(*replies: Reply) -> Answers:
    return lambda asked, number: replies[min(number, len(replies) - 1)]


def play(engine: Any, used: Any = None, **settings: Any) -> Trajectory:
    async def work() -> Trajectory:
        episode = Episode(CountEnv(), engine, used or MessageChat(), EpisodeSettings(PLAIN, **settings), "count 2", 7)
        try:
            return await episode.run()
        finally:
            await engine.disconnect()

    trajectory: Trajectory = run(work())
    return trajectory
