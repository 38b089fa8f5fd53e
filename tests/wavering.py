"""An engine whose words and doubts come from the seed of each request alone, as a model's would."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from small_envs import CountEnv

from agent_gym.engines.base import Completion, Sampling
from agent_gym.engines.scripted import END, ScriptedEngine
from agent_gym.env import TextEnv
from agent_gym.rollout.chat import ByteChat
from agent_gym.rollout.collect import Collector
from agent_gym.rollout.episode import EpisodeSettings
from agent_gym.trajectory import Group


class Wavering(ScriptedEngine):
    """Says one of some words, with random log-probabilities and entropies; notes the seeds that it was given."""

    def __init__(self, words: Sequence[str] = ("up", "down", "left")) -> None:
        super().__init__(["unused"])
        self.words = words
        self.seeds: list[int] = []

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, session: Any = None) -> Completion:
        self.seeds.append(sampling.seed)
        rng = random.Random(sampling.seed)
        ids = [*self.tokenizer.encode(rng.choice(self.words)), END]
        if session is not None:
            assert session.cached < len(prompt_ids)
            session.cached = len(prompt_ids) + len(ids) - 1
        entropies = [4 * rng.random() for _ in ids]
        return Completion(ids, [-rng.random() for _ in ids], entropies, "stop", self.version)


def collected(strategy: Any, env: type[TextEnv] = CountEnv, seed: int = 1) -> list[Group]:
    """Return two groups that a strategy has played."""
    tasks = [task.id for task in env(max_turns=6).tasks("train")[:2]]
    engine, settings = Wavering(["up", "down"]), EpisodeSettings(Sampling(8))
    collector = Collector(lambda: env(max_turns=6), engine, ByteChat(), settings)
    try:
        groups: list[Group] = asyncio.run(strategy.collect(collector, tasks, seed=seed, prefix="s/", on_episode=None))
    finally:
        collector.close()
    return groups


def timeless(groups: list[Group]) -> list[Group]:
    """Return groups without what no two runs have alike: how long things took."""
    for group in groups:
        for trajectory in group.trajectories:
            trajectory.turns = [replace(turn, engine_seconds=0.0, env_seconds=0.0) for turn in trajectory.turns]
    return groups
