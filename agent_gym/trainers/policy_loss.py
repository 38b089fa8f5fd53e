"""Policy-gradient losses a token, and how they are summed up: plain tensors, no configuration objects."""

from typing import Literal, get_args

import torch
from torch import Tensor

from agent_gym.errors import UnknownIdError

Aggregation = Literal["token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]


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
        "clip_fraction": _masked_mean((clipped_ > unclipped).float(), mask),
        "dual_clip_fraction": _masked_mean((torch.maximum(unclipped, clipped_) > bounded).float(), mask),
        "kl": _masked_mean(old_logprobs - logprobs, mask),
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
    # Bounded, so that one broken token cannot make the ratio infinite; masked, so that padding cannot either.
    difference = torch.where(mask.bool(), logprobs - old_logprobs, 0.0).clamp(-20, 20)
    ratio = difference.exp()
    unclipped = -advantages * ratio
    clipped_ = -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    bounded = torch.where(advantages < 0, -advantages * dual_clip, torch.inf)
    return unclipped, clipped_, bounded


def aggregate(values: Tensor, mask: Tensor, mode: Aggregation, *, scale: float | None = None) -> Tensor:
    """Sum up values (B, T) over the mask to a scalar ().

    Modes: "token-mean" (DAPO: every token counts the same), "seq-mean-token-sum" and "seq-mean-token-mean" (original
    GRPO; mean over the rows that have a token), "seq-mean-token-sum-norm" (Dr. GRPO: the sum divided by `scale`, or
    by T). Source: verl, agg_loss.

    Raises:
        UnknownIdError: No such mode.
    """
    kept = torch.where(mask.bool(), values, 0.0)
    if mode == "seq-mean-token-sum-norm":
        return kept.sum() / (scale if scale is not None else values.shape[1])
    return (kept * _weights(mask, mode)).sum() / aggregation_weight(mask, mode).clamp(min=1)


def aggregation_weight(mask: Tensor, mode: Aggregation) -> Tensor:
    """Return what a part of a batch weighs when the parts' aggregates are averaged to that of the whole, ().

    The number of tokens, the number of rows that have one, or 1 for sums.
    """
    if mode == "token-mean":
        return mask.sum()
    if mode in ("seq-mean-token-sum", "seq-mean-token-mean"):
        return (mask.sum(1) > 0).sum()
    if mode == "seq-mean-token-sum-norm":
        return mask.new_ones(())
    raise UnknownIdError.of("aggregation", mode, get_args(Aggregation))


def _weights(mask: Tensor, mode: Aggregation) -> Tensor | float:
    return 1.0 / (mask.sum(1, keepdim=True) + 1e-8) if mode == "seq-mean-token-mean" else 1.0


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask.bool(), values, 0.0).sum() / mask.sum().clamp(min=1)
