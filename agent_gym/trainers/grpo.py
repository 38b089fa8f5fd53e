"""GRPO: group-relative policy optimisation.

Every trajectory of a group gets the advantage (reward - group mean) / group standard deviation on each of its tokens;
the loss is PPO's clipped surrogate, without a critic.

Source: Shao et al., "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models", 2024.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from torch import Tensor

from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.trainers import advantages, policy_loss
from agent_gym.trainers.algorithm import AdvantageStage, Algorithm, IndependentRollouts, Progress
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.kl import Place, with_reference_kl
from agent_gym.trajectory import Group

Counted = Literal["trajectories", "rows"]
"""What counts once in the mean and the standard deviation of a group."""


@dataclass(frozen=True, slots=True)
class InvalidActionPenalty:
    """Takes something off a trajectory's reward for each turn whose action did nothing.

    It also tells apart the members of a group that all failed, which otherwise teach nothing.

    Source: Feng et al., "Group-in-Group Policy Optimization for LLM Agent Training", 2025 (0.1 a turn).
    """

    penalty: float

    def __call__(self, group: Group, rewards: list[list[float]]) -> list[list[float]]:
        """Return the rewards a turn of each valid trajectory of the group."""
        return [
            [reward - self.penalty * turn.invalid_action for turn, reward in zip(trajectory.turns, row, strict=True)]
            for trajectory, row in zip(group.valid, rewards, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class GroupAdvantage:
    """`advantages.grpo`, the same on every token of a trajectory.

    Where a trajectory has several rows, it counts once in its group; `over="rows"` counts it once a row, as the
    released code of verl-agent does (a long episode then weighs more).
    """

    normalize_std: bool = True
    eps: float = 1e-6
    over: Counted = "trajectories"
    singletons: advantages.Singletons = "zero"

    def __call__(self, batch: Batch, so_far: Tensor) -> Tensor:
        """Return advantages (B, T)."""
        if self.over == "rows":
            return self._compare(batch.rewards, batch.groups).unsqueeze(1) * batch.mask
        first, place = batch.first_rows()
        return self._compare(batch.rewards[first], batch.groups[first])[place].unsqueeze(1) * batch.mask

    def _compare(self, rewards: Tensor, groups: Tensor) -> Tensor:
        return advantages.grpo(
            rewards, groups, normalize_std=self.normalize_std, eps=self.eps, singletons=self.singletons
        )


@dataclass(frozen=True, slots=True)
class SurrogateLoss:
    """A surrogate with PPO's clip ranges; what is done beyond the range differs."""

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 3.0
    needs_entropy_gradient: bool = False
    needs_every_row: bool = False
    aggregation: policy_loss.Aggregation | None = None

    def losses(self, *tensors: Tensor, clip_low: float, clip_high: float, dual_clip: float) -> Tensor:
        """Return losses (B, T) of log-probabilities, old ones, advantages and mask."""
        raise NotImplementedError

    def __call__(self, batch: Batch, logprobs: Tensor, entropy: Tensor, progress: Progress) -> Tensor:
        """Return losses (B, T)."""
        return self.losses(logprobs, batch.old_logprobs, batch.advantages, batch.mask, **self._ranges())

    def metrics(self, batch: Batch, logprobs: Tensor, entropy: Tensor) -> Mapping[str, Tensor]:
        """Return clip fractions and KL."""
        return policy_loss.clip_metrics(logprobs, batch.old_logprobs, batch.advantages, batch.mask, **self._ranges())

    def _ranges(self) -> dict[str, float]:
        return {"clip_low": self.clip_low, "clip_high": self.clip_high, "dual_clip": self.dual_clip}


@dataclass(frozen=True, slots=True)
class ClippedPolicyLoss(SurrogateLoss):
    """`policy_loss.clipped`."""

    def losses(self, *tensors: Tensor, clip_low: float, clip_high: float, dual_clip: float) -> Tensor:
        """See `SurrogateLoss.losses`."""
        return policy_loss.clipped(*tensors, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip)


@dataclass(frozen=True, slots=True)
class EntropyBonus:
    """- coefficient * entropy: keeps the policy from settling too early."""

    coefficient: float
    needs_entropy_gradient: bool = True
    needs_every_row: bool = True
    aggregation: policy_loss.Aggregation | None = None

    def __call__(self, batch: Batch, logprobs: Tensor, entropy: Tensor, progress: Progress) -> Tensor:
        """Return losses (B, T)."""
        return -self.coefficient * entropy

    def metrics(self, batch: Batch, logprobs: Tensor, entropy: Tensor) -> Mapping[str, Tensor]:
        """Nothing to add: the update logs the entropy itself."""
        return {}


def grpo(
    *,
    group_size: int = 8,
    normalize_std: bool = True,
    over: Counted = "trajectories",
    singletons: advantages.Singletons = "zero",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 3.0,
    entropy_coefficient: float = 0.0,
    kl_coefficient: float = 0.0,
    kl_estimator: policy_loss.KLEstimator = "k3",
    kl_on: Place = "loss",
    invalid_action_penalty: float = 0.0,
    aggregation: policy_loss.Aggregation = "token-mean",
    loss_scale: float | None = None,
) -> Algorithm:
    """The preset.

    Args:
        group_size: Trajectories a task.
        normalize_std: Divide by the group's standard deviation; False is Dr. GRPO.
        over: What counts once in a group's mean and standard deviation: "trajectories" (the paper), or "rows" (the
            released code of verl-agent, where a row is a turn and long episodes have more say).
        singletons: What a group of one gets: "zero", or its "reward" as in verl.
        clip_low: Lower clip range of the ratio.
        clip_high: Upper clip range; 0.28 is DAPO's.
        dual_clip: Bound of the ratio where the advantage is negative.
        entropy_coefficient: Weight of an entropy bonus; 0 leaves it out.
        kl_coefficient: Weight of a penalty on the divergence from the policy before training; 0 leaves it out.
        kl_estimator: How that is estimated, see `policy_loss.kl`.
        kl_on: Where the penalty stands: in the "loss", or on the "reward" of each token, where verl has "k1".
        invalid_action_penalty: Taken off the reward for each turn whose action did nothing; 0 leaves it out.
        aggregation: See `policy_loss.aggregate`.
        loss_scale: The constant of "seq-mean-token-sum-norm", which needs one: by the longest row of a step, steps with
            short episodes would count more.

    Raises:
        UnknownIdError: No such `over`, `singletons` or `aggregation`.
        ConfigError: "seq-mean-token-sum-norm" without a constant above 0.
    """
    for kind, name, known in (
        ("way to count in a group", over, Counted),
        ("advantage of a group of one", singletons, advantages.Singletons),
        ("aggregation", aggregation, policy_loss.Aggregation),
    ):
        if name not in get_args(known):
            raise UnknownIdError.of(kind, name, get_args(known))
    if aggregation == "seq-mean-token-sum-norm" and not (loss_scale and loss_scale > 0):
        raise ConfigError(
            "The aggregation 'seq-mean-token-sum-norm' divides by a constant: set loss_scale, to about the tokens that "
            "an episode may have."
        )
    penalty = (InvalidActionPenalty(invalid_action_penalty),) if invalid_action_penalty else ()
    bonus = (EntropyBonus(entropy_coefficient),) if entropy_coefficient else ()
    base = Algorithm(
        name="grpo",
        rollout=IndependentRollouts(group_size),
        rewards=penalty,
        advantages=(GroupAdvantage(normalize_std, over=over, singletons=singletons),),
        losses=(ClippedPolicyLoss(clip_low, clip_high, dual_clip), *bonus),
        aggregation=aggregation,
        loss_scale=loss_scale,
    )
    return with_reference_kl(base, kl_coefficient, kl_estimator, on=kl_on)


def estimated_by(base: Algorithm, estimator: AdvantageStage) -> Algorithm:
    """Put another estimator in the place of GRPO's; what comes before it (a penalty on rewards) stays."""
    stages = tuple(estimator if isinstance(stage, GroupAdvantage) else stage for stage in base.advantages)
    return replace(base, advantages=stages)
