"""AEPO: ARPO with its entropy balanced, in the rollout and in the update.

Of the group's budget as many episodes begin anew as the question is uncertain, the others branch; a chain that has
branched again and again branches less; tokens above the clip range keep a gradient; and uncertain tokens count more.

Source: Dong et al., "Agentic Entropy-Balanced Policy Optimization", arXiv 2510.14545; repository RUC-NLPIR/ARPO,
folder AEPO.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from agent_gym.engines.base import Engine
from agent_gym.errors import ConfigError, TrainingError
from agent_gym.rollout.branching import BranchPlan, Timing
from agent_gym.trainers import policy_loss
from agent_gym.trainers.algorithm import AdvantageStage, Algorithm, LossTerm
from agent_gym.trainers.arpo import (
    Attribution,
    EntropyBranching,
    EntropyForm,
    attribution_stages,
    clamped,
    group_size_of,
    require,
)
from agent_gym.trainers.bases import played_by
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.checks import require_finite
from agent_gym.trainers.empg import EntropyModulation
from agent_gym.trainers.grpo import ClippedPolicyLoss, SurrogateLoss

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

    Raises:
        TrainingError: A log-probability or an advantage is not finite.

    Source: AEPO, section 3.3; verl_aepo_entropy, compute_policy_loss_entropy_balanced_clipping.
    """
    chosen = mask.bool()
    ratio = policy_loss.importance_ratio(logprobs, old_logprobs, mask)
    require_finite("advantage", advantages, mask)
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

    Raises:
        TrainingError: An advantage or an entropy is not finite.

    Source: AEPO, section 3.3; compute_policy_loss_entropy_balanced_clipping. (The released scripts never get there:
    their entropies are computed only for an entropy bonus, which is off.)
    """
    require_finite("advantage", advantages, mask)
    require_finite("entropy", entropy.detach(), mask)
    chosen = mask.bool()
    values = entropy.detach()[chosen]
    if values.numel() < 2 or values.min() == values.max():
        return advantages.clone()
    standard = torch.where(chosen, (entropy.detach() - values.mean()) / (values.std() + 1e-6), 0.0)
    return advantages * (1 + weight * standard)


def _sigmoid(value: float) -> float:
    """Return 1 / (1 + exp(-value)), also for large values of either sign."""
    return 0.5 * (1 + math.tanh(value / 2))


@dataclass
class BalancedBranching(EntropyBranching):
    """The rollout strategy of AEPO: the budget is divided by a first look at the task, and chains tire of branching.

    One episode of the group is played to its end first; from its entropies follows how many more begin anew. It stays
    in the group (the released code throws it away, and takes the entropy of the question from a sample of its own).

    Source: AEPO, section 3.2; vLLMRolloutWithTools.generate_sequences and _calculate_initial_rollouts_dynamical.
    """

    dynamic_budget: bool = True
    """False leaves it at `initial` (what the released scripts do)."""
    beta: float = 0.5
    """See `rollout_budget`."""
    penalty: float = 0.05
    """See `branch_probability`."""
    rule: Form = "paper"
    """Which budget and which probability, and where branches in a row are counted: along a chain ("paper"), or by the
    group ("repo")."""

    def __post_init__(self) -> None:
        EntropyBranching.__post_init__(self)
        require(self.penalty >= 0, f"penalty must not be negative, it is {self.penalty}")
        require(self.rule in ("paper", "repo"), f'rule must be "paper" or "repo", not {self.rule!r}')

    @property
    def branches(self) -> bool:
        """Whether anything can branch."""
        begin_all = self.initial == self.group_size and not self.dynamic_budget
        return self.group_size > 1 and not begin_all and self.width > 1 and self.max_depth != 0

    def plan(self, engine: Engine) -> BranchPlan:
        """Return how groups grow."""
        return replace(
            EntropyBranching.plan(self, engine),
            budget=self._budget if self.dynamic_budget else None,
            count=count_consecutive if self.rule == "repo" else None,
        )

    def _budget(self, entropies: Sequence[float]) -> int:
        """Return how many episodes begin anew, from the entropies of the first one's turns."""
        # An episode that never came to a second turn says nothing of the tools, one that failed nothing at all.
        question = entropies[0] if entropies else 0.0
        answers = entropies if self.rule == "repo" else entropies[1:]
        tool = statistics.fmean(answers) if answers else question
        return rollout_budget(question, tool, self.group_size, beta=self.beta, form=self.rule)

    def _probability(self, entropy: float, initial_entropy: float, in_a_row: int) -> float:
        return branch_probability(
            entropy,
            initial_entropy,
            in_a_row,
            base=self.base,
            weight=self.weight,
            penalty=self.penalty,
            form=self.rule,
        )


@dataclass(frozen=True, slots=True)
class BalancedPolicyLoss(SurrogateLoss):
    """`balanced_clip`."""

    def losses(self, *tensors: Tensor, clip_low: float, clip_high: float, dual_clip: float) -> Tensor:
        """See `SurrogateLoss.losses`."""
        return balanced_clip(*tensors, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip)


@dataclass(frozen=True, slots=True)
class EntropyAwareAdvantage:
    """`entropy_aware` with the entropies of the policy that sampled."""

    weight: float = 0.2

    def __call__(self, batch: Batch, so_far: Tensor) -> Tensor:
        """Return advantages (B, T)."""
        return entropy_aware(so_far, batch.entropies, batch.mask, weight=self.weight)


def aepo(
    base: Algorithm,
    *,
    initial: int | None = None,
    width: int = 2,
    base_probability: float = 0.5,
    weight: float = 0.2,
    tokens: int = 20,
    timing: Timing = "after",
    entropy_form: EntropyForm = "mean",
    max_depth: int | None = None,
    threshold: float | None = None,
    attribution: Attribution = "soft",
    dynamic_budget: bool = True,
    beta: float = 0.5,
    penalty: float = 0.05,
    rule: Form = "paper",
    clipping: bool = True,
    advantage_weight: float = 0.2,
) -> Algorithm:
    """Balance the entropy of an algorithm's rollouts and of its update; the size of its groups stays.

    Args:
        base: Any algorithm that compares the members of a group; for `clipping`, one with PPO's clipped loss.
        initial: Episodes that a group begins with where `dynamic_budget` is off; None is half of the group.
        width: See `EntropyBranching.width`.
        base_probability: Probability to branch at an unchanged entropy.
        weight: What a rise of the entropy adds to it.
        tokens: Tokens of a generation that its entropy is measured on.
        timing: See `EntropyBranching.timing`.
        entropy_form: See `arpo.segment_entropy`.
        max_depth: Branches between a root and a leaf at most.
        threshold: See `EntropyBranching.threshold`.
        attribution: See `arpo.arpo`.
        dynamic_budget: Divide the budget by a first look at the task.
        beta: How much the look counts, see `rollout_budget`.
        penalty: What one branch takes off the next on its chain.
        rule: See `BalancedBranching.rule`.
        clipping: Keep a gradient above the clip range.
        advantage_weight: How much more an uncertain token counts; 0 leaves it out.

    Raises:
        ConfigError: An option is out of range, the base branches already, or it has no clipped loss to balance.
    """
    size = group_size_of(base)
    rollout = BalancedBranching(
        group_size=size,
        initial=max(1, size // 2) if initial is None else initial,
        width=width,
        base=base_probability,
        weight=weight,
        tokens=tokens,
        timing=timing,
        form=entropy_form,
        max_depth=max_depth,
        threshold=threshold,
        dynamic_budget=dynamic_budget,
        beta=beta,
        penalty=penalty,
        rule=rule,
    )
    aware = (EntropyAwareAdvantage(advantage_weight),) if advantage_weight else ()
    return replace(
        played_by(base, rollout),
        name=f"{base.name}+aepo",
        advantages=(*_attributed(base, attribution), *aware),
        losses=_balanced(base) if clipping else base.losses,
    )


def _attributed(base: Algorithm, attribution: Attribution) -> tuple[AdvantageStage, ...]:
    """Return the advantage stages of an algorithm with the attribution to branches, which comes before EMPG."""
    stages = base.advantages
    modulated = [isinstance(stage, EntropyModulation) for stage in stages]
    place = modulated.index(True) if any(modulated) else len(stages)
    return (*stages[:place], *attribution_stages(attribution), *stages[place:])


def _balanced(base: Algorithm) -> tuple[LossTerm, ...]:
    """Return the losses of an algorithm with every clipped policy loss balanced."""
    if not any(type(term) is ClippedPolicyLoss for term in base.losses):
        raise ConfigError(
            f"{base.name} has no clipped policy loss to balance: set clipping=False, or choose another base."
        )
    return tuple(
        BalancedPolicyLoss(term.clip_low, term.clip_high, term.dual_clip, aggregation=term.aggregation)
        if type(term) is ClippedPolicyLoss
        else term
        for term in base.losses
    )
