"""Measures what a turn costs where the environment lives: here, in a process of its own, in actors of Ray.

The environment and the model are trivial, 64 episodes are in flight, and everything is recorded: what is left is the
way to the environment and back. "alone": each question to an actor is a message of its own, as without
`ray_link._Queue`.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

from loop import TrivialEnv

from agent_gym.engines.base import Sampling
from agent_gym.engines.scripted import ScriptedEngine
from agent_gym.env import TextEnv
from agent_gym.registry import make
from agent_gym.rollout import ray_link
from agent_gym.rollout.chat import ByteChat
from agent_gym.rollout.collect import Collector, Job
from agent_gym.rollout.episode import EpisodeSettings
from agent_gym.rollout.ray_workers import RayPool
from agent_gym.sections import RolloutSection

IN_FLIGHT = 64
TURNS = 20
REPEATS = 5
ENV = f"{TrivialEnv.__module__}:TrivialEnv"


def main() -> None:
    """Print the median microseconds a turn, of some repeats."""
    show("inline", partial(make, ENV, max_turns=TURNS))
    section = RolloutSection(workers="ray", concurrency=IN_FLIGHT)
    with RayPool(section, ENV, {"max_turns": TURNS}) as pool:
        show(f"Ray, {len(pool._links)} actors", pool.make)
        ray_link._TOGETHER_SECONDS = 1e-9
        show("Ray, alone", pool.make)
    show("processes", partial(make, ENV, max_turns=TURNS, worker="process"))


def show(name: str, make_env: Callable[[], TextEnv]) -> None:
    """Play and print a line; the first round, which makes the environments, is not counted."""
    settings = EpisodeSettings(Sampling(max_tokens=64))
    collector = Collector(make_env, ScriptedEngine(["go on"]), ByteChat(), settings, concurrency=IN_FLIGHT)
    rounds = []
    for number in range(REPEATS + 1):
        jobs = [Job(f"{number}/{index}", "g", None, index) for index in range(IN_FLIGHT)]
        started = time.perf_counter()
        played = asyncio.run(collector.play(jobs))
        rounds.append(1e6 * (time.perf_counter() - started) / (IN_FLIGHT * TURNS))
        assert [len(each.turns) for each in played] == [TURNS] * IN_FLIGHT, played[0].error
    collector.close()
    sys.stdout.write(f"{name:16} {statistics.median(rounds[1:]):7.0f} us a turn (best {min(rounds[1:]):.0f})\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
