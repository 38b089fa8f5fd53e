"""AEPO: ARPO with its entropy balanced, in the rollout and in the update.

Of the group's budget as many episodes begin anew as the question is uncertain, the others branch; a chain that has
branched again and again branches less; tokens above the clip range keep a gradient; and uncertain tokens count more.

Source: Dong et al., "Agentic Entropy-Balanced Policy Optimization", arXiv 2510.14545; repository RUC-NLPIR/ARPO,
folder AEPO.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from agent_gym.errors import TrainingError
from agent_gym.trainers.arpo import clamped

Form = Literal["paper", "repo"]


def rollout_budget(
    question_entropy: float, tool_entropy: float, total: int, *, beta: float = 0.5, form: Form = "paper"
) -> int:
    """How many of a group's episodes begin anew: total * sigmoid(beta * (question entropy - tool entropy)).

    Args:
        question_entropy: Of what is generated right after the question, see `arpo.segment_entropy`.
        tool_entropy: Mean over what is generated after each answer of a tool.
        total: Size of the group.
        beta: How much a difference counts.
        form: "paper" rounds to the nearest, "repo" is the released int(...) + 1, which leans to beginning anew (and is
            given the mean over all segments there, the first one included). Both stay in [1, total].

    Raises:
        TrainingError: The total is less than 1.

    Source: AEPO, section 3.2; vLLMRolloutWithTools._calculate_initial_rollouts_dynamical.
    """
    if total < 1:
        raise TrainingError(f"A group of {total} has no budget to divide: group_size must be at least 1.")
    share = total * _sigmoid(beta * (question_entropy - tool_entropy))
    # Halves go up: Python's own rounding would go to the even number, and so the budget would not be monotone in size.
    count = math.floor(share + 0.5) if form == "paper" else int(share) + 1
    return min(max(count, 1), total)


def branch_probability(
    entropy: float,
    initial_entropy: float,
    consecutive: int,
    *,
    base: float = 0.5,
    weight: float = 0.2,
    penalty: float = 0.05,
    form: Form = "paper",
) -> float:
    """Probability that a rollout branches, lower the more often it has just branched.

    Args:
        entropy: Of the segment that decides.
        initial_entropy: Of the first segment of the rollout.
        consecutive: How many of its decisions before this one, without a gap, were to branch.
        base: Probability at equal entropies ("paper"); the threshold that is subtracted ("repo").
        weight: What a difference of 1 adds.
        penalty: What one branch takes off the next; at consecutive * penalty = 1 nothing branches.
        form: With f = max(0, 1 - penalty * consecutive), "paper" is (base + weight * difference) * f. "repo" is what
            the released comparison "(u + weight * difference) * f >= base" comes to, 1 + weight * difference - base /
            f. The two agree at base 0.5 without a penalty.

    Source: AEPO, section 3.2, eq. of the penalised branch probability; vLLMRolloutWithTools.generate_sequences.
    """
    left = max(0.0, 1.0 - penalty * consecutive)
    rise = weight * (entropy - initial_entropy)
    if form == "paper":
        return clamped((base + rise) * left)
    if base <= 0:
        return 1.0
    return clamped(1.0 + rise - base / left) if left > 0 else 0.0


def count_consecutive(count: int, created: int, *, anywhere: bool = True) -> int:
    """Return how many rounds in a row a group has grown, as the released code counts: by the group, not by the chain.

    Args:
        count: Rounds until now.
        created: What this round added to the group; a fresh root counts, too.
        anywhere: Whether this round added anything to any group of the batch; the released code resets nobody
            otherwise. Groups that do not wait for each other leave it at True, what a large batch comes to.

    Source: vLLMRolloutWithTools.generate_sequences (AEPO). The paper counts along a chain.
    """
    if not anywhere:
        return count
    return count + 1 if created else 0


def balanced_clip(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 3.0,
) -> Tensor:
    """PPO's clipped surrogate whose upper clip keeps a gradient.

    The upper bound of the ratio r is (1 + clip_high) * r / sg(r), sg without gradient. Losses are those of
    `policy_loss.clipped`; where A > 0 and r > 1 + clip_high the gradient is that of a ratio of 1 + clip_high, not 0.

    Args:
        logprobs: (B, T) under the policy that is optimised; the gradient flows through these.
        old_logprobs: (B, T) under the policy that sampled the tokens.
        advantages: (B, T), constant.
        mask: (B, T), 1 on tokens that the model generated; losses elsewhere are 0.
        clip_low: Lower clip range; below it the gradient is 0 for A < 0, as in PPO.
        clip_high: Upper clip range.
        dual_clip: Bound of the ratio for negative advantages, above 1.

    Returns:
        Losses (B, T).

    Source: AEPO, section 3.3; verl_aepo_entropy, compute_policy_loss_entropy_balanced_clipping.
    """
    chosen = mask.bool()
    ratio = torch.where(chosen, logprobs - old_logprobs, 0.0).clamp(-20, 20).exp()
    upper = (1 + clip_high) * (ratio / ratio.detach())
    clipped = torch.minimum(ratio.clamp(min=1 - clip_low), upper)
    losses = torch.maximum(-advantages * ratio, -advantages * clipped)
    bounded = torch.where(advantages < 0, -advantages * dual_clip, torch.inf)
    return torch.where(chosen, torch.minimum(losses, bounded), 0.0)


def entropy_aware(advantages: Tensor, entropy: Tensor, mask: Tensor, *, weight: float = 0.2) -> Tensor:
    """Let uncertain tokens count more: advantages * (1 + weight * z), z the standardised entropy of the token.

    The factor has mean 1 over the batch, and is 1 where all entropies are equal (the released code turns the dust of
    their rounding into a factor). It is not bounded: z < -1 / weight turns the sign. Give the whole batch, so that
    nothing depends on how it is cut into micro-batches (the released code takes them one by one).

    Args:
        advantages: (B, T).
        entropy: (B, T) in nats, of the policy that sampled; no gradient flows through it.
        mask: (B, T), 1 on tokens that the model generated; others keep what they have.
        weight: 0 returns the advantages as they are.

    Returns:
        Advantages (B, T).

    Source: AEPO, section 3.3; compute_policy_loss_entropy_balanced_clipping. (The released scripts never get there:
    their entropies are computed only for an entropy bonus, which is off.)
    """
    chosen = mask.bool()
    values = entropy.detach()[chosen]
    if values.numel() < 2 or values.min() == values.max():
        return advantages.clone()
    standard = torch.where(chosen, (entropy.detach() - values.mean()) / (values.std() + 1e-6), 0.0)
    return advantages * (1 + weight * standard)


def _sigmoid(value: float) -> float:
    """Return 1 / (1 + exp(-value)), also for large values of either sign."""
    return 0.5 * (1 + math.tanh(value / 2))
