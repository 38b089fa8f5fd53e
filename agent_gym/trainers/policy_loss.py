"""Policy-gradient losses a token, and how they are summed up: plain tensors, no configuration objects."""

from typing import Literal, get_args

import torch
from torch import Tensor

from agent_gym.errors import UnknownIdError
from agent_gym.trainers.checks import require_finite

Aggregation = Literal["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm", "turn-mean"]

KLEstimator = Literal["k1", "abs", "k2", "k3"]
"""How a divergence is estimated from the log-probabilities of one sample, see `kl`."""


def clipped(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 3.0,
) -> Tensor:
    """PPO's clipped surrogate with dual clip, one loss a token.

    With r = exp(logprobs - old_logprobs): max(-A r, -A clamp(r, 1 - clip_low, 1 + clip_high)), and for A < 0 at most
    -A dual_clip.

    Args:
        logprobs: (B, T) under the policy that is optimised; the gradient flows through these.
        old_logprobs: (B, T) under the policy that sampled the tokens.
        advantages: (B, T), constant.
        mask: (B, T), 1 on tokens that the model generated; losses elsewhere are 0.
        clip_low: Lower clip range.
        clip_high: Upper clip range; above clip_low it is DAPO's "clip-higher".
        dual_clip: Bound of the ratio for negative advantages, above 1.

    Returns:
        Losses (B, T).

    Raises:
        TrainingError: A log-probability or an advantage is not finite.

    Source: Schulman et al., "Proximal Policy Optimization Algorithms", 2017, eq. 7; Ye et al., "Mastering Complex
    Control in MOBA Games", 2020 (dual clip); verl, compute_policy_loss_vanilla.
    """
    unclipped, clipped_, bounded = _surrogates(
        logprobs, old_logprobs, advantages, mask, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip
    )
    return torch.where(mask.bool(), torch.minimum(torch.maximum(unclipped, clipped_), bounded), 0.0)


def clip_metrics(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 3.0,
) -> dict[str, Tensor]:
    """What the clipping did, as means over the mask: arguments as in `clipped`.

    Returns:
        Scalars: "clip_fraction" (the clamp is the larger loss), "dual_clip_fraction", "kl" (mean of
        old_logprobs - logprobs).
    """
    unclipped, clipped_, bounded = _surrogates(
        logprobs, old_logprobs, advantages, mask, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip
    )
    return {
        "clip_fraction": masked_mean((clipped_ > unclipped).float(), mask),
        "dual_clip_fraction": masked_mean((torch.maximum(unclipped, clipped_) > bounded).float(), mask),
        "kl": masked_mean(old_logprobs - logprobs, mask),
    }


def _surrogates(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the plain surrogate, the clamped one, and the upper bound of the dual clip; each (B, T)."""
    ratio = importance_ratio(logprobs, old_logprobs, mask)
    require_finite("advantage", advantages, mask)
    unclipped = -advantages * ratio
    clipped_ = -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    bounded = torch.where(advantages < 0, -advantages * dual_clip, torch.inf)
    return unclipped, clipped_, bounded


def clip_cov(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    ratio: float = 2e-4,
    low: float = 1.0,
    high: float = 5.0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The clipped surrogate, without dual clip, where some tokens of high covariance are taken out of the loss.

    Tokens on which probability and advantage are high together are those that make entropy fall. Among the tokens that
    are not clipped and whose `covariance` lies strictly between the bounds, max(1, int(ratio * tokens)) are drawn;
    their losses are 0, and still count in the denominator.

    Args:
        logprobs: (B, T) under the policy that is optimised; the gradient flows through these.
        old_logprobs: (B, T) under the policy that sampled the tokens.
        advantages: (B, T), constant.
        mask: (B, T), 1 on tokens that the model generated; losses elsewhere are 0.
        ratio: Share of all tokens that is drawn, at least one token. A fraction, as in verl; covariances grow with the
            scale of the advantages, and so should the bounds.
        low: Lower bound of the covariance.
        high: Upper bound of the covariance; infinity for both draws nothing.
        clip_low: Lower clip range; the paper's own code runs with 1.
        clip_high: Upper clip range; the paper's own code runs with 1.
        generator: On the CPU; what draws. If not given, one that is seeded with 0.

    Returns:
        Losses (B, T).

    Raises:
        TrainingError: A log-probability or an advantage is not finite.

    Source: Cui et al., "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models", 2025; verl,
    compute_policy_loss_clip_cov.
    """
    bounds = {"clip_low": clip_low, "clip_high": clip_high, "dual_clip": torch.inf}
    unclipped, clipped_, _ = _surrogates(logprobs, old_logprobs, advantages, mask, **bounds)
    drawn = _draw(logprobs, advantages, mask.bool() & (clipped_ <= unclipped), mask, ratio, low, high, generator)
    return torch.where(mask.bool() & ~drawn, torch.maximum(unclipped, clipped_), 0.0)


def clip_cov_metrics(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    ratio: float = 2e-4,
    low: float = 1.0,
    high: float = 5.0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """What `clip_cov` did, as means over the mask; arguments as there, the generator in the same state.

    Returns:
        Scalars: "covariance_clip_fraction" (drawn), "clip_fraction" (the clamp is the larger loss), "kl" (mean of
        old_logprobs - logprobs).
    """
    bounds = {"clip_low": clip_low, "clip_high": clip_high, "dual_clip": torch.inf}
    unclipped, clipped_, _ = _surrogates(logprobs, old_logprobs, advantages, mask, **bounds)
    drawn = _draw(logprobs, advantages, mask.bool() & (clipped_ <= unclipped), mask, ratio, low, high, generator)
    return {
        "covariance_clip_fraction": masked_mean(drawn.float(), mask),
        "clip_fraction": masked_mean((clipped_ > unclipped).float(), mask),
        "kl": masked_mean(old_logprobs - logprobs, mask),
    }


def kl_cov(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    fraction: float = 2e-4,
    coefficient: float = 1.0,
) -> Tensor:
    """The unclipped surrogate -A r, plus a penalty where covariance is highest.

    The max(1, int(fraction * tokens)) tokens of highest `covariance` get coefficient * |logprobs - old_logprobs|.

    Args:
        logprobs: (B, T) under the policy that is optimised; the gradient flows through these.
        old_logprobs: (B, T) under the policy that sampled the tokens.
        advantages: (B, T), constant.
        mask: (B, T), 1 on tokens that the model generated; losses elsewhere are 0.
        fraction: Of all tokens, as in verl. The paper's own code takes percent: its 0.2 is 0.002 here.
        coefficient: Of the penalty; 0 is the plain policy gradient.

    Returns:
        Losses (B, T).

    Raises:
        TrainingError: A log-probability or an advantage is not finite.

    Source: Cui et al., "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models", 2025; verl,
    compute_policy_loss_kl_cov.
    """
    ratio = importance_ratio(logprobs, old_logprobs, mask)
    require_finite("advantage", advantages, mask)
    kept = mask.bool()
    tokens = int(kept.sum())
    ranked = covariance(logprobs, advantages, mask).masked_fill(~kept, -torch.inf).flatten()
    highest = ranked.topk(min(max(1, int(fraction * tokens)), tokens)).indices
    chosen = torch.zeros_like(kept).flatten().index_fill(0, highest, True).view_as(kept)
    penalty = torch.where(chosen, (logprobs - old_logprobs).abs(), 0.0)
    return torch.where(kept, -advantages * ratio, 0.0) + coefficient * penalty


def kl_cov_metrics(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """How far the policy moved, as means over the mask: "kl" (old_logprobs - logprobs) and "kl_abs" (its size)."""
    difference = old_logprobs - logprobs
    return {"kl": masked_mean(difference, mask), "kl_abs": masked_mean(difference.abs(), mask)}


def covariance(logprobs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """(advantage - mean) * (log-probability - mean) of each token, means over the mask; (B, T), without gradient."""
    centred = [value.detach() - masked_mean(value.detach(), mask) for value in (logprobs, advantages)]
    return torch.where(mask.bool(), centred[0] * centred[1], 0.0)


def _draw(
    logprobs: Tensor,
    advantages: Tensor,
    candidates: Tensor,
    mask: Tensor,
    ratio: float,
    low: float,
    high: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Return which tokens of the candidates `clip_cov` takes out, (B, T)."""
    products = covariance(logprobs, advantages, mask)
    eligible = (candidates & (products > low) & (products < high)).flatten().nonzero().squeeze(1)
    count = min(max(int(ratio * float(mask.sum())), 1), len(eligible))
    order = torch.randperm(len(eligible), generator=generator or torch.Generator().manual_seed(0))
    drawn = torch.zeros_like(candidates).flatten()
    drawn[eligible[order[:count].to(eligible.device)]] = True
    return drawn.view_as(candidates)


def importance_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Return exp(logprobs - old_logprobs), (B, T), 1 where the mask is 0.

    Bounded, so that one broken token cannot make the ratio infinite; masked, so that padding cannot either.

    Raises:
        TrainingError: A log-probability is not finite.
    """
    difference = torch.where(mask.bool(), logprobs - old_logprobs, 0.0)
    require_finite("log-probability", difference.detach())
    return difference.clamp(-20, 20).exp()


def kl(logprobs: Tensor, ref_logprobs: Tensor, estimator: KLEstimator = "k3") -> Tensor:
    """Estimate the divergence of the policy from a reference at each token that the policy sampled.

    With d = logprobs - ref_logprobs: "k1" is d, "abs" |d|, "k2" d^2 / 2, and "k3" (verl's low_var_kl, never negative)
    exp(-d) + d - 1. As a loss, "k2" and "k3" pull towards the reference; the gradient of "k1" is 0 on average.

    Args:
        logprobs: (B, T) under the policy that is optimised; the gradient flows through these.
        ref_logprobs: (B, T) under the reference.
        estimator: Which one.

    Returns:
        Estimates (B, T). For "k3", d is bounded by 20 and the result by 10, as in verl.

    Raises:
        UnknownIdError: No such estimator.

    Source: Schulman, "Approximating KL Divergence", 2020; verl, kl_penalty_forward.
    """
    difference = logprobs - ref_logprobs
    if estimator == "k1":
        return difference
    if estimator == "abs":
        return difference.abs()
    if estimator == "k2":
        return difference**2 / 2
    if estimator == "k3":
        bounded = (-difference).clamp(-20, 20)
        return (bounded.exp() - bounded - 1).clamp(-10, 10)
    raise UnknownIdError.of("KL estimator", estimator, get_args(KLEstimator))


def aggregate(
    values: Tensor,
    mask: Tensor,
    mode: Aggregation,
    *,
    scale: float | None = None,
    turns: Tensor | None = None,
    trajectories: Tensor | None = None,
) -> Tensor:
    """Sum up values (B, T) over the mask to a scalar ().

    Modes: "token-mean" (DAPO: every token counts the same), "seq-mean-token-sum" and "seq-mean-token-mean" (original
    GRPO; mean over the rows that have a token), "seq-mean-token-sum-norm" (Dr. GRPO: the sum divided by `scale`, or
    by T), "turn-mean" (EPO: mean over a turn's tokens, over a trajectory's turns, over trajectories).

    Args:
        values: (B, T).
        mask: (B, T), 1 on tokens that count.
        mode: How to sum up.
        scale: The constant of "seq-mean-token-sum-norm".
        turns: (B, T) the turn of each token, for "turn-mean"; by default a row is one turn.
        trajectories: (B,) the trajectory of each row, for "turn-mean"; by default each row is one.

    Raises:
        UnknownIdError: No such mode.

    Source: verl, agg_loss; Xu et al., "EPO", 2025, eq. 3 ("turn-mean").
    """
    weights, total = token_weights(mask, mode, scale=scale, turns=turns, trajectories=trajectories)
    return (torch.where(mask.bool(), values, 0.0) * weights).sum() / total


def token_weights(
    mask: Tensor,
    mode: Aggregation,
    *,
    scale: float | None = None,
    turns: Tensor | None = None,
    trajectories: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what each token weighs in `aggregate`, (B, T), and what the weighted sum is divided by, ().

    A batch that is cut into parts is summed up exactly by the weights and the divisor of the whole. Arguments as there.
    """
    if mode == "token-mean":
        return mask, mask.sum().clamp(min=1)
    rows = (mask.sum(1) > 0).sum().clamp(min=1)
    if mode == "seq-mean-token-sum":
        return mask, rows
    if mode == "seq-mean-token-mean":
        return mask / (mask.sum(1, keepdim=True) + 1e-8), rows
    if mode == "seq-mean-token-sum-norm":
        return mask, mask.new_tensor(float(mask.shape[1]) if scale is None else scale)
    if mode == "turn-mean":
        return _turn_weights(mask, turns, trajectories)
    raise UnknownIdError.of("aggregation", mode, get_args(Aggregation))


def _turn_weights(mask: Tensor, turns: Tensor | None, trajectories: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return 1 / (tokens of the turn * turns of the trajectory) for each token, and the number of trajectories."""
    owners = torch.arange(len(mask), device=mask.device) if trajectories is None else trajectories
    places = torch.zeros_like(mask, dtype=torch.long) if turns is None else turns
    kept = mask.bool()
    keys = torch.stack([owners.unsqueeze(1).expand_as(places)[kept], places[kept]], 1)
    units, of_token, tokens = keys.unique(dim=0, return_inverse=True, return_counts=True)
    found, of_unit, counts = units[:, 0].unique(return_inverse=True, return_counts=True)
    weights = torch.zeros_like(mask)
    weights[kept] = 1.0 / (tokens[of_token] * counts[of_unit][of_token]).to(mask.dtype)
    return weights, mask.new_tensor(float(max(len(found), 1)))


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of values (B, T) over the mask, (); 0 where it is empty."""
    return torch.where(mask.bool(), values, 0.0).sum() / mask.sum().clamp(min=1)
