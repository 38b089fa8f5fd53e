"""A penalty on the divergence from the policy that training began with, in the loss or on the rewards.

Source: Shao et al., "DeepSeekMath", 2024, eq. 4; verl, actor.use_kl_loss and algorithm.use_kl_in_reward.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.trainers import policy_loss
from agent_gym.trainers.algorithm import AdvantageStage, Algorithm, Progress
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.checks import require_finite

Place = Literal["loss", "reward"]
"""Where the penalty stands."""


@dataclass(frozen=True, slots=True)
class ReferenceKL:
    """coefficient * `policy_loss.kl`."""

    coefficient: float
    estimator: policy_loss.KLEstimator = "k3"
    needs_entropy_gradient: bool = False
    needs_every_row: bool = True
    aggregation: policy_loss.Aggregation | None = None

    def __call__(self, batch: Batch, logprobs: Tensor, entropy: Tensor, progress: Progress) -> Tensor:
        """Return losses (B, T).

        Raises:
            TrainingError: A log-probability is not finite; the bounds of an estimator would hide it.
        """
        require_finite("log-probability", logprobs.detach(), batch.mask)
        require_finite("reference log-probability", batch.ref_logprobs, batch.mask)
        return self.coefficient * self._estimate(batch, logprobs)

    def metrics(self, batch: Batch, logprobs: Tensor, entropy: Tensor) -> Mapping[str, Tensor]:
        """Return the estimate, without its coefficient."""
        return {"kl_reference": policy_loss.masked_mean(self._estimate(batch, logprobs), batch.mask)}

    def _estimate(self, batch: Batch, logprobs: Tensor) -> Tensor:
        return _estimate(logprobs, batch, self.estimator)


@dataclass(frozen=True, slots=True)
class PenalisedRewards:
    """Takes coefficient * `policy_loss.kl` of the sampling policy off the reward of each generated token.

    An advantage stage that comes before what estimates: it changes `Batch.token_rewards`, and `Batch.rewards` by the
    sum over the trajectory, and leaves the advantages as they are.

    Source: Ouyang et al., "Training Language Models to Follow Instructions with Human Feedback", 2022; verl,
    apply_kl_penalty.
    """

    coefficient: float
    estimator: policy_loss.KLEstimator = "k1"

    def __call__(self, batch: Batch, so_far: Tensor) -> Tensor:
        """Return the advantages (B, T) so far.

        Raises:
            TrainingError: A log-probability of the reference is not finite.
        """
        require_finite("reference log-probability", batch.ref_logprobs, batch.mask)
        penalties = self.coefficient * _estimate(batch.old_logprobs, batch, self.estimator)
        first, place = batch.first_rows()
        whole = batch.rewards.new_zeros(len(first)).index_add(0, place, penalties.sum(1))
        batch.token_rewards = batch.token_rewards - penalties
        batch.rewards = batch.rewards - whole[place]
        return so_far


def _estimate(logprobs: Tensor, batch: Batch, estimator: policy_loss.KLEstimator) -> Tensor:
    """Return the divergence of a policy from the reference, (B, T), 0 where the mask is 0."""
    kept = batch.mask.bool()
    ours, theirs = (torch.where(kept, each, 0.0) for each in (logprobs, batch.ref_logprobs))
    return policy_loss.kl(ours, theirs, estimator)


def with_reference_kl(
    base: Algorithm, coefficient: float, estimator: policy_loss.KLEstimator = "k3", *, on: Place = "loss"
) -> Algorithm:
    """Add the penalty to an algorithm, which then needs a reference policy.

    Args:
        base: What it is added to.
        coefficient: Weight of the penalty; 0 leaves it out. EPO's scripts have 0.01.
        estimator: See `policy_loss.kl`.
        on: Where it stands, "loss" or "reward".

    Raises:
        ConfigError: The coefficient is negative.
        UnknownIdError: No such estimator or place.
    """
    if on not in get_args(Place):
        raise UnknownIdError.of("place of the KL penalty", on, get_args(Place))
    if estimator not in get_args(policy_loss.KLEstimator):
        raise UnknownIdError.of("KL estimator", estimator, get_args(policy_loss.KLEstimator))
    if coefficient < 0:
        raise ConfigError(f"kl_coefficient must be at least 0, not {coefficient}: below 0 it pushes the policy away.")
    if coefficient == 0:
        return base
    if on == "reward":
        stages: tuple[AdvantageStage, ...] = (PenalisedRewards(coefficient, estimator), *base.advantages)
        return replace(base, advantages=stages, needs_reference=True)
    return replace(base, losses=(*base.losses, ReferenceKL(coefficient, estimator)), needs_reference=True)
