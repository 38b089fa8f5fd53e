"""Samplers that run ahead, and a strategy that tells how far they are."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from small_envs import CountEnv
from wavering import Wavering

from agent_gym.config import TrainConfig
from agent_gym.config_files import build
from agent_gym.engines.base import Engine
from agent_gym.rollout.chat import ByteChat, Chat
from agent_gym.trainers.ahead import AheadSampler
from agent_gym.trainers.algorithm import IndependentRollouts
from agent_gym.trajectory import Group, Turn

LIMIT = 20.0
"""Seconds after which a test that waits for another thread has failed."""


class Watched(IndependentRollouts):
    """Notes with which weights each step began, and lets tests wait for its end."""

    def __init__(self) -> None:
        super().__init__(2)
        object.__setattr__(self, "begun", {})
        object.__setattr__(self, "ended", [threading.Event() for _ in range(20)])

    async def collect(self, collector: Any, *arguments: Any, **values: Any) -> list[Group]:
        step = int(values["prefix"].split("/")[1]) - 1
        self.begun[step] = collector.engine.version  # type: ignore[attr-defined]
        groups = await super().collect(collector, *arguments, **values)
        self.ended[step].set()  # type: ignore[attr-defined]
        return groups


def settings(max_lag: int, *, steps: int = 8, env: type = CountEnv, tasks: int = 2, **rollout: Any) -> TrainConfig:
    return build(
        TrainConfig,
        {
            "env": {"id": f"small_envs:{env.__name__}", "options": {"max_turns": 4}},
            "rollout": {"tasks": tasks, "max_tokens": 8, "max_lag": max_lag, **rollout},
            "steps": steps,
        },
    )


@contextmanager
def sampling(
    max_lag: int, engine: Engine | None = None, chat: Chat | None = None, rollout: Any = None, **values: Any
) -> Iterator[AheadSampler]:
    """Open a sampler; nothing of it may be left when it is closed."""
    rollout = rollout or Watched()
    sampler = AheadSampler(settings(max_lag, **values), engine or Wavering(["up"]), chat or ByteChat(), rollout)
    with sampler:
        sampler.updated(None, 0)
        assert sampling_threads()
        yield sampler
    assert not sampling_threads()


def sampling_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "sampling"]


def turns(groups: Sequence[Group]) -> list[Turn]:
    return [turn for group in groups for member in group.trajectories for turn in member.turns]
