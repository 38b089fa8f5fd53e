"""One Java process for most tests of ScienceWorld: starting one takes seconds."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agent_gym.envs.scienceworld import ScienceWorldEnv
from agent_gym.envs.scienceworld.simulator import Process, Simulator

MakeEnv = Callable[..., ScienceWorldEnv]


@pytest.fixture(scope="session")
def process() -> Iterator[Process]:
    pytest.importorskip("scienceworld")
    process = Process(heap=256, timeout=60)
    process.join()
    yield process
    process.end()


@pytest.fixture
def make_env(process: Process) -> Iterator[MakeEnv]:
    """Makes environments that live in the one process, as forks do."""
    made = []

    def make(**options: Any) -> ScienceWorldEnv:
        env = ScienceWorldEnv(**options)
        env._simulator = Simulator(process)
        made.append(env)
        return env

    yield make
    for env in made:
        env.close()
