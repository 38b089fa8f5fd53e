"""How much better each trajectory, turn or token was than expected: estimators on plain tensors, without gradient."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from agent_gym.errors import TrainingError
from agent_gym.trainers.checks import require_finite

Singletons = Literal["zero", "reward"]
"""What a group of one gets: nothing to compare with, nothing learnt; or its reward, as in verl."""

Normalization = Literal["mean", "mean-std"]
"""What is taken off rewards: the mean of their group, and then a division by its standard deviation or none."""

Holes = Literal["skip", "count"]
"""Whether time passes on tokens between generated ones (tool results, observations)."""


def grpo(
    rewards: Tensor,
    groups: Tensor,
    *,
    normalize_std: bool = True,
    eps: float = 1e-6,
    trajectories: Tensor | None = None,
    singletons: Singletons = "zero",
) -> Tensor:
    """Group-relative advantages: (reward - mean of the group) / (standard deviation of the group + eps).

    Exactly 0 for a group of equal rewards, where the official code returns the dust of float32 rounding divided by
    eps.

    Args:
        rewards: (N,) one reward a row.
        groups: (N,) integer ids; equal ids are compared with each other.
        normalize_std: False leaves the division out (Dr. GRPO).
        eps: Added to the sample standard deviation (n - 1).
        trajectories: (N,) integer ids, where a row is a turn: every trajectory counts once in the statistics of its
            group, as in the paper. Every row counts if not given, as in verl-agent (compute_mean_std_cross_all_data),
            which gives long episodes more say.
        singletons: What a group of one gets.

    Returns:
        Advantages (N,).

    Raises:
        TrainingError: There are no rewards, or one is not finite.

    Source: Shao et al., "DeepSeekMath", 2024, section 4.1; Liu et al., "Understanding R1-Zero-Like Training", 2025
    (Dr. GRPO); verl, compute_grpo_outcome_advantage.
    """
    compared = _compare(rewards, groups, trajectories)
    centred = compared.centred
    if normalize_std:
        centred = centred / (compared.std + eps)
    return compared.settle(rewards, centred, singletons)


def rloo(
    rewards: Tensor, groups: Tensor, *, trajectories: Tensor | None = None, singletons: Singletons = "zero"
) -> Tensor:
    """Leave-one-out advantages: reward - mean of the other members of the group = n / (n - 1) * (reward - mean).

    Args:
        rewards: (N,) one reward a row.
        groups: (N,) integer ids; equal ids are compared with each other.
        trajectories: As in `grpo`.
        singletons: What a group of one gets.

    Returns:
        Advantages (N,).

    Raises:
        TrainingError: There are no rewards, or one is not finite.

    Source: Ahmadian et al., "Back to Basics: Revisiting REINFORCE-Style Optimization", 2024; verl,
    compute_rloo_outcome_advantage.
    """
    compared = _compare(rewards, groups, trajectories)
    scale = compared.size / (compared.size - 1).clamp(min=1)
    return compared.settle(rewards, compared.centred * scale, singletons)


def pass_at_k(rewards: Tensor, groups: Tensor, *, normalize_std: bool = True, eps: float = 1e-6) -> Tensor:
    """Advantages of the best of a group alone: best - second best, divided by (standard deviation + eps).

    Everyone else gets 0, and so does everyone in a group of one or where two are best.

    Args:
        rewards: (N,) one reward a trajectory.
        groups: (N,) integer ids; equal ids are compared with each other.
        normalize_std: False leaves the division out.
        eps: Added to the sample standard deviation (n - 1).

    Returns:
        Advantages (N,).

    Raises:
        TrainingError: There are no rewards, or one is not finite.

    Source: verl, compute_grpo_passk_outcome_advantage (which refuses groups of one); Tang et al., "Optimizing Language
    Models for Inference Time Objectives using Reinforcement Learning", 2025.
    """
    compared = _compare(rewards, groups, None)
    best = rewards == compared.high
    alone = best & (_sum_by(best.to(rewards.dtype), compared.index) == 1)
    others = rewards.masked_fill(alone, -torch.inf)
    second = _extreme(others, compared.index, "amax")
    lead = torch.where(alone & torch.isfinite(second), rewards - second, 0.0)
    return lead / (compared.std + eps) if normalize_std else lead


def gigpo(
    rewards: Tensor,
    returns: Tensor,
    groups: Tensor,
    states: Tensor,
    *,
    weight: float = 1.0,
    normalization: Normalization = "mean-std",
    eps: float = 1e-6,
    trajectories: Tensor | None = None,
    singletons: Singletons = "zero",
) -> Tensor:
    """Advantages of turns: those of their episode within the task, plus those within the turns that saw the same.

    Args:
        rewards: (N,) the reward of each turn's whole trajectory.
        returns: (N,) discounted rewards from each turn to the end of its trajectory.
        groups: (N,) integer ids of tasks.
        states: (N,) integer ids of what the turns answered; compared within a group only.
        weight: Factor of the step part.
        normalization: For both parts.
        eps: Added to the sample standard deviations (n - 1).
        trajectories: (N,) integer ids: each trajectory counts once in the episode part's statistics, as in the
            paper. Every turn counts if not given, as in verl-agent.
        singletons: What the only member of a task gets from the episode part ("reward" in verl-agent). From the step
            part a state that was seen once always gets 0.

    Returns:
        Advantages (N,).

    Raises:
        TrainingError: There are no turns, or a reward or a return is not finite.

    Source: Feng et al., "Group-in-Group Policy Optimization for LLM Agent Training", 2025, eq. 3 to 8; verl-agent,
    compute_gigpo_outcome_advantage.
    """
    normalize_std = normalization == "mean-std"
    episode = grpo(
        rewards, groups, normalize_std=normalize_std, eps=eps, trajectories=trajectories, singletons=singletons
    )
    pairs = torch.stack([groups, states]).unique(dim=1, return_inverse=True)[1]
    return episode + weight * grpo(returns, pairs, normalize_std=normalize_std, eps=eps)


def discounted_returns(rewards: Tensor, mask: Tensor, *, gamma: float, reset_at_holes: bool = False) -> Tensor:
    """Sums of the rewards to come: G_t = R_t + gamma * G of the next position where the mask is 1.

    Args:
        rewards: (B, T); what stands where the mask is 0 is not read.
        mask: (B, T), 1 on generated tokens (or on turns).
        gamma: Discount, from 0 to 1.
        reset_at_holes: Let no reward reach back over a position where the mask is 0, as verl does: what came before
            the last tool result then gets nothing of a reward at the end.

    Returns:
        Returns (B, T), 0 where the mask is 0.

    Raises:
        TrainingError: A reward is not finite.
    """
    require_finite("reward", rewards, mask)
    kept = mask.bool()
    returns = torch.zeros_like(rewards)
    running = rewards.new_zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        hole = torch.zeros_like(running) if reset_at_holes else running
        running = torch.where(kept[:, t], rewards[:, t] + gamma * running, hole)
        returns[:, t] = torch.where(kept[:, t], running, 0.0)
    return returns


def reinforce_plus_plus(token_rewards: Tensor, mask: Tensor, *, gamma: float, reset_at_holes: bool = False) -> Tensor:
    """Discounted returns, whitened over all tokens of the batch.

    Args:
        token_rewards: (B, T).
        mask: (B, T), 1 on generated tokens.
        gamma: Discount a generated token, from 0 to 1.
        reset_at_holes: See `discounted_returns`; True is verl's.

    Returns:
        Advantages (B, T), 0 where the mask is 0.

    Raises:
        TrainingError: A reward is not finite.

    Source: Hu et al., "REINFORCE++", 2025; verl, compute_reinforce_plus_plus_outcome_advantage.
    """
    return whiten(discounted_returns(token_rewards, mask, gamma=gamma, reset_at_holes=reset_at_holes), mask)


def reinforce_plus_plus_baseline(
    rewards: Tensor,
    groups: Tensor,
    mask: Tensor,
    *,
    trajectories: Tensor | None = None,
    singletons: Singletons = "zero",
) -> Tensor:
    """Rewards minus the mean of their group, whitened over all tokens of the batch.

    Args:
        rewards: (B,) one reward a row.
        groups: (B,) integer ids; equal ids are compared with each other.
        mask: (B, T), 1 on generated tokens.
        trajectories: As in `grpo`.
        singletons: What a group of one gets before the whitening.

    Returns:
        Advantages (B, T), 0 where the mask is 0.

    Raises:
        TrainingError: There are no rewards, or one is not finite.

    Source: Hu et al., "REINFORCE++", 2025 (REINFORCE++-baseline); verl,
    compute_reinforce_plus_plus_baseline_outcome_advantage.
    """
    centred = grpo(rewards, groups, normalize_std=False, trajectories=trajectories, singletons=singletons)
    return whiten(centred.unsqueeze(1) * mask, mask)


def gae(
    token_rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float, holes: Holes = "skip"
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates: A_t = R_t + gamma * V_next - V_t + gamma * lam * A_next.

    Args:
        token_rewards: (B, T).
        values: (B, T) of the critic.
        mask: (B, T), 1 on generated tokens.
        gamma: Discount, from 0 to 1.
        lam: How far ahead rewards are trusted over values: 1 is Monte Carlo, 0 one step.
        holes: "skip": the next position is the next generated token, and nothing else is read. "count": it is the
            neighbour, whoever wrote it, so that rewards and values there enter (the older verl); the same where no
            mask has a hole and padding holds zeros.

    Returns:
        Advantages (B, T), not whitened (see `whiten`), and returns (B, T) = advantages + values; 0 where the mask
        is 0.

    Raises:
        TrainingError: A reward or a value is not finite.

    Source: Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage Estimation", 2015, eq. 16;
    verl, compute_gae_advantage_return.
    """
    read = mask if holes == "skip" else torch.ones_like(mask)
    require_finite("reward", token_rewards, read)
    require_finite("value", values, read)
    kept, counted = mask.bool(), read.bool()
    advantages = torch.zeros_like(values)
    next_value = last = values.new_zeros(len(values))
    for t in reversed(range(values.shape[1])):
        estimate = token_rewards[:, t] + gamma * next_value - values[:, t] + gamma * lam * last
        last = torch.where(counted[:, t], estimate, last)
        next_value = torch.where(counted[:, t], values[:, t], next_value)
        advantages[:, t] = torch.where(kept[:, t], last, 0.0)
    return advantages, torch.where(kept, advantages + values, 0.0)


def whiten(values: Tensor, mask: Tensor, *, eps: float = 1e-8) -> Tensor:
    """Shift and scale to mean 0 and sample variance 1 (n - 1) over the mask.

    Args:
        values: (B, T).
        mask: (B, T).
        eps: Added to the variance.

    Returns:
        Whitened values (B, T), 0 where the mask is 0; all 0 where the mask keeps equal values or at most one, where
        verl fails.

    Source: verl, masked_whiten (which whitens positions outside the mask, too).
    """
    kept = mask.bool()
    chosen = values[kept]
    if len(chosen) == 0 or chosen.min() == chosen.max():
        return torch.zeros_like(values)
    whitened = (values - chosen.mean()) * torch.rsqrt(chosen.var() + eps)
    return torch.where(kept, whitened, 0.0)


@dataclass(frozen=True, slots=True)
class _Compared:
    """Rewards beside the statistics of their groups; every tensor is (N,)."""

    index: Tensor
    """Number of the group, from 0."""
    size: Tensor
    centred: Tensor
    std: Tensor
    """Sample standard deviation (n - 1); 0 in a group of one."""
    low: Tensor
    high: Tensor

    def settle(self, rewards: Tensor, advantages: Tensor, singletons: Singletons) -> Tensor:
        """Return the advantages (N,), with those put right that rounding or the lack of company spoils."""
        settled = torch.where(self.low == self.high, torch.zeros_like(advantages), advantages)
        return torch.where(self.size == 1, rewards, settled) if singletons == "reward" else settled


def _compare(rewards: Tensor, groups: Tensor, trajectories: Tensor | None) -> _Compared:
    if rewards.numel() == 0:
        raise TrainingError("There are no rewards to compare: every group is empty or failed.")
    require_finite("reward", rewards)
    index = groups.unique(return_inverse=True)[1]
    counted = torch.ones_like(rewards) if trajectories is None else _first_of_each(index, trajectories).to(rewards)
    size = _sum_by(counted, index)
    centred = rewards - _sum_by(counted * rewards, index) / size
    variance = _sum_by(counted * centred**2, index) / (size - 1).clamp(min=1)
    low, high = (_extreme(rewards, index, which) for which in ("amin", "amax"))
    return _Compared(index, size, centred, variance.sqrt(), low, high)


def _first_of_each(groups: Tensor, trajectories: Tensor) -> Tensor:
    """Return a mask (N,) of the first row of every trajectory of every group."""
    index = torch.stack([groups, trajectories]).unique(dim=1, return_inverse=True)[1]
    rows = torch.arange(len(index), device=index.device)
    return rows == _extreme(rows, index, "amin")


def _sum_by(values: Tensor, index: Tensor) -> Tensor:
    """Return the sum of each value's group, (N,)."""
    sums = torch.zeros(int(index.max()) + 1, dtype=values.dtype, device=values.device)
    return sums.index_add_(0, index, values)[index]


def _extreme(values: Tensor, index: Tensor, which: str) -> Tensor:
    """Return the smallest or largest value of each one's group, (N,)."""
    empty = torch.zeros(int(index.max()) + 1, dtype=values.dtype, device=values.device)
    return empty.scatter_reduce(0, index, values, which, include_self=False)[index]
