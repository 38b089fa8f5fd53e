"""RLOO: REINFORCE that compares each trajectory with the mean of the *other* ones of its group.

Leaving oneself out keeps the gradient unbiased. The loss is GRPO's clipped surrogate, which on the data of the current
policy is plain REINFORCE.

Source: Ahmadian et al., "Back to Basics: Revisiting REINFORCE-Style Optimization for Learning from Human Feedback in
LLMs", 2024; verl, compute_rloo_outcome_advantage.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from agent_gym.trainers import advantages
from agent_gym.trainers.algorithm import Algorithm
from agent_gym.trainers.bases import extends
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.grpo import estimated_by, grpo


@dataclass(frozen=True, slots=True)
class LeaveOneOutAdvantage:
    """`advantages.rloo`, the same on every token of a trajectory, which counts once whatever its number of rows."""

    def __call__(self, batch: Batch, so_far: Tensor) -> Tensor:
        """Return advantages (B, T)."""
        rows = advantages.rloo(batch.rewards, batch.groups, trajectories=batch.trajectories)
        return rows.unsqueeze(1) * batch.mask


@extends(grpo, without=("normalize_std", "over", "singletons"))
def rloo(**options: Any) -> Algorithm:
    """The base.

    Args:
        **options: Those of `grpo`.
    """
    return replace(estimated_by(grpo(**options), LeaveOneOutAdvantage()), name="rloo")
