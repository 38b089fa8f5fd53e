"""How far the policy that sampled is from the one that is trained, and what is done about it: plain tensors.

Two policies are called the same and are not: the engine's (another implementation, another precision, weights that are
some updates old) and the trainer's before its first update, the proximal policy. Ratios of losses start from the
proximal policy; what lies between it and the engine is corrected by importance weights.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from agent_gym.trainers.checks import require_finite
from agent_gym.trainers.policy_loss import kl
from agent_gym.trajectory import Group

Level = Literal["token", "turn"]


def importance_ratios(
    proximal_logprobs: Tensor,
    sampled_logprobs: Tensor,
    mask: Tensor,
    level: Level,
    *,
    turns: Tensor | None = None,
    trajectories: Tensor | None = None,
) -> Tensor:
    """Return proximal probability / sampling probability, of each token or of its whole turn.

    Losses that are multiplied by these estimate what the proximal policy's own samples would have given; the weights
    are min(cap, ratio), which bounds the variance for some bias. Ratios of turns are right for turns (without a cap,
    the estimate is exact where an episode is one turn), but a product over tokens varies the more the longer the turn
    is. Ratios of tokens vary least, and leave out that the tokens before were sampled by another policy, too.

    Args:
        proximal_logprobs: (B, T) under the trainer's weights before the first update.
        sampled_logprobs: (B, T) that the engine said.
        mask: (B, T), 1 on tokens that the model generated.
        level: "token": the ratio of each token. "turn": the plain product over the turn's tokens, for each of them.
        turns: (B, T) the turn of each token in its trajectory, for "turn"; by default a row is one turn.
        trajectories: (B,) the trajectory of each row, for "turn"; by default each row is one.

    Returns:
        Ratios (B, T), 1 where the mask is 0; no gradient.

    Raises:
        TrainingError: A log-probability is not finite.

    Source: Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025 (truncated
    importance sampling); Fu et al., "AReaL: A Large-Scale Asynchronous Reinforcement Learning System for Language
    Reasoning", 2025 (the decoupled objective: ratios from the proximal policy, weights from the sampling one); verl,
    compute_rollout_correction_weights (its "sequence" is the product over a response, here over a turn).
    """
    difference = log_ratios(proximal_logprobs, sampled_logprobs, mask)
    if level == "turn":
        difference = _summed_over_turns(difference, mask, turns, trajectories)
    # Bounded as the ratios of losses are, so that one broken token cannot make a weight infinite.
    return difference.clamp(-20, 20).exp().to(proximal_logprobs.dtype)


def mismatch_metrics(proximal_logprobs: Tensor, sampled_logprobs: Tensor, mask: Tensor) -> dict[str, float]:
    """Return how much the two policies differ on what was sampled, over the mask.

    Args:
        proximal_logprobs: (B, T) under the trainer's weights before the first update.
        sampled_logprobs: (B, T) that the engine said.
        mask: (B, T), 1 on tokens that the model generated.

    Returns:
        "mismatch_mean" and "mismatch_max" (the size of the difference of log-probabilities, in nats), "mismatch_kl"
        (the estimate "k3" of the divergence of the sampling policy from the proximal one), "effective_sample_size"
        ((sum of ratios)^2 / sum of squares, as a share of the tokens: 1 where the policies agree). Nothing where the
        mask is empty.
    """
    kept = mask.bool()
    if not kept.any():
        return {}
    difference = log_ratios(proximal_logprobs, sampled_logprobs, mask)[kept]
    return {
        "mismatch_mean": float(difference.abs().mean()),
        "mismatch_max": float(difference.abs().max()),
        "mismatch_kl": float(kl(torch.zeros_like(difference), difference, "k3").mean()),
        "effective_sample_size": _effective_share(difference.clamp(-20, 20).exp()),
    }


def weight_metrics(ratios: Tensor, mask: Tensor, cap: float) -> dict[str, float]:
    """Return what importance weights min(cap, ratio) do, over the mask; ratios (B, T) as `importance_ratios` says.

    Returns:
        "importance_truncated" (share of tokens whose ratio is above the cap), "importance_mean" (of the weights: near
        1 where the cap takes little away), "effective_sample_size" (of the ratios, before the cap). Nothing where the
        mask is empty.
    """
    kept = ratios[mask.bool()].double()
    if not len(kept):
        return {}
    return {
        "importance_truncated": float((kept > cap).double().mean()),
        "importance_mean": float(kept.clamp(max=cap).mean()),
        "effective_sample_size": _effective_share(kept),
    }


def lag_metrics(groups: Iterable[Group], version: int) -> dict[str, float]:
    """Return how old the weights were that sampled what is trained on.

    Args:
        groups: Of the step.
        version: Of the weights that the step starts from.

    Returns:
        "lag_mean" (over generated tokens) and "lag_max", in updates of the weights; 0 where nothing was generated.
    """
    ages = [
        (version - turn.engine_version, turn.end - turn.start)
        for group in groups
        for trajectory in group.valid
        for turn in trajectory.turns
    ]
    tokens = sum(count for _, count in ages)
    return {
        "lag_mean": sum(age * count for age, count in ages) / max(tokens, 1),
        "lag_max": float(max((age for age, count in ages if count), default=0)),
    }


def log_ratios(proximal_logprobs: Tensor, sampled_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Return proximal minus sampling log-probability, (B, T) in float64, 0 where the mask is 0.

    Raises:
        TrainingError: One is not finite.
    """
    difference = torch.where(mask.bool(), proximal_logprobs.double() - sampled_logprobs.double(), 0.0)
    require_finite("log-probability", difference)
    return difference.detach()


def _effective_share(ratios: Tensor) -> float:
    """Return (sum)^2 / (n * sum of squares) of ratios (n,): the share of samples that is left when they are weighted.

    Source: Kong, "A Note on Importance Sampling Using Standardized Weights", 1992.
    """
    return float(ratios.sum() ** 2 / ratios.square().sum() / len(ratios))


def _summed_over_turns(values: Tensor, mask: Tensor, turns: Tensor | None, trajectories: Tensor | None) -> Tensor:
    """Return for each token of the mask the sum of the values (B, T) of all tokens of its turn; 0 elsewhere."""
    owners = torch.arange(len(mask), device=mask.device) if trajectories is None else trajectories
    places = torch.zeros_like(mask, dtype=torch.long) if turns is None else turns
    kept = mask.bool()
    keys = torch.stack([owners.unsqueeze(1).expand_as(places)[kept], places[kept]], 1)
    units, of_token = keys.unique(dim=0, return_inverse=True)
    totals = values.new_zeros(len(units)).index_add(0, of_token, values[kept])
    summed = torch.zeros_like(values)
    summed[kept] = totals[of_token]
    return summed
