"""REINFORCE++: discounted returns of each token, whitened over the whole batch instead of compared within a group.

The variant with a baseline takes the mean of the group off first, and then whitens.

Source: Hu et al., "REINFORCE++: A Simple and Efficient Approach for Aligning Large Language Models", 2025; verl,
compute_reinforce_plus_plus_outcome_advantage and compute_reinforce_plus_plus_baseline_outcome_advantage.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from agent_gym.trainers import advantages
from agent_gym.trainers.algorithm import Algorithm
from agent_gym.trainers.bases import extends, require_shares
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.grpo import estimated_by, grpo
from agent_gym.trainers.sequences import Sequences


@dataclass(frozen=True, slots=True)
class WhitenedReturns:
    """`advantages.reinforce_plus_plus` over what a trajectory generated, in whatever rows that stands."""

    gamma: float = 1.0
    reset_at_holes: bool = False
    """Let no reward reach back over what the environment said, nor into another row; as in verl."""

    def __call__(self, batch: Batch, so_far: Tensor) -> Tensor:
        """Return advantages (B, T)."""
        if self.reset_at_holes:
            return advantages.reinforce_plus_plus(
                batch.token_rewards, batch.mask, gamma=self.gamma, reset_at_holes=True
            )
        own = Sequences.of(batch)
        rewards = own.gather(batch.token_rewards)
        return own.scatter(advantages.reinforce_plus_plus(rewards, own.mask, gamma=self.gamma))


@dataclass(frozen=True, slots=True)
class WhitenedDifferences:
    """`advantages.reinforce_plus_plus_baseline`; a trajectory counts once in the mean of its group."""

    def __call__(self, batch: Batch, so_far: Tensor) -> Tensor:
        """Return advantages (B, T)."""
        return advantages.reinforce_plus_plus_baseline(
            batch.rewards, batch.groups, batch.mask, trajectories=batch.trajectories
        )


@extends(grpo, without=("normalize_std", "over", "singletons"))
def reinforce_plus_plus(
    *, baseline: bool = False, gamma: float = 1.0, reset_at_holes: bool = False, **options: Any
) -> Algorithm:
    """The base.

    Args:
        baseline: Take the mean of the group off the reward of the whole trajectory, instead of returns a token.
        gamma: Discount a generated token, from 0 to 1; without `baseline`.
        reset_at_holes: See `advantages.discounted_returns`; without `baseline`.
        **options: Those of `grpo`.

    Raises:
        ConfigError: A discount out of range.
    """
    require_shares(gamma=gamma)
    stage = WhitenedDifferences() if baseline else WhitenedReturns(gamma, reset_at_holes)
    return replace(estimated_by(grpo(**options), stage), name="reinforce++")
