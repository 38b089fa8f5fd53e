"""DAPO: GRPO with a wider upper clip range, no groups of equal rewards, and a soft limit on length.

A step's groups whose members all succeed or all fail teach nothing; they are dropped, and other tasks are played in
their stead. Losses count by the token.

Source: Yu et al., "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", 2025 (arXiv 2503.14476), eq. 8 to
13; verl, recipe/dapo.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agent_gym.env import TextEnv
from agent_gym.errors import ConfigError
from agent_gym.rollout.collect import Collector, OnEpisode
from agent_gym.rollout.seeds import derive_seed
from agent_gym.trainers.algorithm import Algorithm, RolloutStrategy
from agent_gym.trainers.bases import extends
from agent_gym.trainers.grpo import grpo
from agent_gym.trajectory import Group


def soft_overlong_penalty(length: int, *, limit: int, margin: int) -> float:
    """What an answer's length takes off its reward: 0 up to limit - margin, from there linearly down to -1 at limit.

    Args:
        length: Generated tokens.
        limit: From here on the penalty is -1.
        margin: Tokens below the limit in which it grows; at least 1.

    Source: Yu et al., "DAPO", 2025, eq. 13.
    """
    return -min(max((length - (limit - margin)) / margin, 0.0), 1.0)


@dataclass(frozen=True, slots=True)
class OverlongPenalty:
    """`soft_overlong_penalty` of all that a trajectory generated, on the reward of its last turn.

    What the environment says is not counted: the policy cannot help it.
    """

    limit: int
    margin: int
    factor: float = 1.0

    def __call__(self, group: Group, rewards: list[list[float]]) -> list[list[float]]:
        """Return the rewards a turn of each valid trajectory of the group."""
        lengths = [sum(trajectory.action_mask) for trajectory in group.valid]
        penalties = [
            self.factor * soft_overlong_penalty(length, limit=self.limit, margin=self.margin) for length in lengths
        ]
        return [[*row[:-1], row[-1] + own] if row else [] for row, own in zip(rewards, penalties, strict=True)]


@dataclass(slots=True)
class DynamicSampling:
    """A rollout strategy that drops groups of equal rewards and plays other tasks until there are enough.

    What counts is the environment's reward, before any shaping. Where rounds run out there are fewer groups; where not
    a single one differs, those of the first round are returned, which teach nothing but say why.
    """

    inner: RolloutStrategy
    """Plays the groups."""
    max_rounds: int = 10
    """Times that groups are played in a step, the first one included."""
    _counts: dict[str, float] = field(default_factory=dict, init=False, compare=False)

    async def collect(
        self, collector: Collector, task_ids: Sequence[str], *, seed: int, prefix: str, on_episode: OnEpisode | None
    ) -> list[Group]:
        """Return at most one group a task; tasks of the training split are drawn from the seed."""
        rng = random.Random(derive_seed(seed, "dynamic sampling"))
        kept: list[Group] = []
        dropped: list[Group] = []
        wanted, played = list(task_ids), set(task_ids)
        rounds = 0
        while wanted and rounds < self.max_rounds:
            own_seed, own_prefix = (derive_seed(seed, rounds), f"{prefix}r{rounds}/") if rounds else (seed, prefix)
            groups = await self.inner.collect(
                collector, wanted, seed=own_seed, prefix=own_prefix, on_episode=on_episode
            )
            rounds += 1
            for group in groups:
                (kept if _differs(group) else dropped).append(group)
            wanted = _draw(collector.probe, len(task_ids) - len(kept), played, rng)
            played |= set(wanted)
        self._counts = {
            "sampling_rounds": float(rounds),
            "dropped_groups": float(len(dropped)),
            "dropped_episodes": float(sum(len(group.trajectories) for group in dropped)),
        }
        return kept or dropped[: len(task_ids)]

    def check(self, env: TextEnv) -> None:
        """Look whether the inner strategy can work with an environment."""
        self.inner.check(env)

    def metrics(self) -> Mapping[str, float]:
        """Return how often was played, and what was dropped; the episodes dropped are work that was done."""
        return {**self.inner.metrics(), **self._counts}


def _differs(group: Group) -> bool:
    return len({trajectory.reward for trajectory in group.valid}) > 1


def _draw(env: TextEnv, count: int, played: set[str], rng: random.Random) -> list[str]:
    """Return tasks of the environment's split that were not played in this step, or any where all of them were."""
    tasks = env.tasks(env.split)
    drawn: list[str] = []
    taken = set(played)
    for _ in range(count):
        # A split may be too long to be listed: a few tries find a fresh task unless there is hardly one.
        tries = [tasks[rng.randrange(len(tasks))].id for _ in range(8)]
        drawn.append(next((task for task in tries if task not in taken), tries[0]))
        taken.add(drawn[-1])
    return drawn


@extends(grpo)
def dapo(
    *,
    clip_high: float = 0.28,
    dual_clip: float = 10.0,
    max_rounds: int = 10,
    overlong_limit: int = 0,
    overlong_margin: int = 0,
    overlong_factor: float = 1.0,
    **options: Any,
) -> Algorithm:
    """The base.

    Args:
        clip_high: Upper clip range ("clip-higher").
        dual_clip: Bound of the ratio where the advantage is negative.
        max_rounds: Times that groups are played in a step until enough of them have unequal rewards; 1 drops the
            others and plays nothing more, 0 leaves dynamic sampling out.
        overlong_limit: Generated tokens of a trajectory at which the penalty is full; 0 leaves it out.
        overlong_margin: Tokens below the limit in which it grows.
        overlong_factor: The full penalty.
        **options: Those of `grpo`.

    Raises:
        ConfigError: A negative number of rounds, or an over-long penalty without a margin within its limit.
    """
    if max_rounds < 0:
        raise ConfigError(f"DAPO plays in at least 0 rounds: max_rounds cannot be {max_rounds}.")
    base = grpo(clip_high=clip_high, dual_clip=dual_clip, **options)
    rewards = base.rewards
    if overlong_limit:
        if not 0 < overlong_margin <= overlong_limit:
            raise ConfigError(
                f"The over-long penalty grows in a margin below its limit: choose overlong_margin from 1 to "
                f"{overlong_limit}, not {overlong_margin}."
            )
        rewards = (*rewards, OverlongPenalty(overlong_limit, overlong_margin, overlong_factor))
    rollout = DynamicSampling(base.rollout, max_rounds) if max_rounds else base.rollout
    return replace(base, name="dapo", rewards=rewards, rollout=rollout)
