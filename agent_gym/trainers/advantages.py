"""How much better each trajectory was than its group: estimators on plain tensors, without gradient."""

import torch
from torch import Tensor

from agent_gym.errors import TrainingError


def grpo(rewards: Tensor, groups: Tensor, *, normalize_std: bool = True, eps: float = 1e-6) -> Tensor:
    """Group-relative advantages: (reward - mean of the group) / (standard deviation of the group + eps).

    Exactly 0 for a group of one and for a group of equal rewards, where the official code returns the reward itself
    or the dust of float32 rounding divided by eps.

    Args:
        rewards: (N,) one reward a trajectory.
        groups: (N,) integer ids; equal ids are compared with each other.
        normalize_std: False leaves the division out (Dr. GRPO).
        eps: Added to the sample standard deviation (n - 1).

    Returns:
        Advantages (N,).

    Raises:
        TrainingError: There are no rewards, or one is not finite.

    Source: Shao et al., "DeepSeekMath", 2024, section 4.1; Liu et al., "Understanding R1-Zero-Like Training", 2025
    (Dr. GRPO); verl, compute_grpo_outcome_advantage.
    """
    if rewards.numel() == 0:
        raise TrainingError("There are no rewards to compare: every group is empty or failed.")
    if not torch.isfinite(rewards).all():
        raise TrainingError("A reward is not finite: look at the environment's rewards and at the reward functions.")
    _, index = groups.unique(return_inverse=True)
    count = torch.zeros(int(index.max()) + 1, device=rewards.device).index_add_(0, index, torch.ones_like(rewards))
    low, high = (_extreme(rewards, index, len(count), which) for which in ("amin", "amax"))
    mean = torch.zeros_like(count).index_add_(0, index, rewards) / count
    centred = rewards - mean[index]
    if normalize_std:
        variance = torch.zeros_like(count).index_add_(0, index, centred**2) / (count - 1).clamp(min=1)
        centred = centred / (variance.sqrt()[index] + eps)
    return torch.where((low == high)[index], torch.zeros_like(centred), centred)


def _extreme(rewards: Tensor, index: Tensor, groups: int, which: str) -> Tensor:
    empty = torch.zeros(groups, dtype=rewards.dtype, device=rewards.device)
    return empty.scatter_reduce(0, index, rewards, which, include_self=False)
