"""A penalty on the divergence from the policy that training began with, as a summand of the loss.

Source: Shao et al., "DeepSeekMath", 2024, eq. 4; verl, actor.use_kl_loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor

from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.trainers import policy_loss
from agent_gym.trainers.algorithm import Algorithm, Progress
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.checks import require_finite


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
        kept = batch.mask.bool()
        ours, theirs = (torch.where(kept, each, 0.0) for each in (logprobs, batch.ref_logprobs))
        return policy_loss.kl(ours, theirs, self.estimator)


def with_reference_kl(base: Algorithm, coefficient: float, estimator: policy_loss.KLEstimator = "k3") -> Algorithm:
    """Add the penalty to an algorithm, which then needs a reference policy.

    Args:
        base: What it is added to.
        coefficient: Weight of the penalty; 0 leaves it out. EPO's scripts have 0.01.
        estimator: See `policy_loss.kl`.

    Raises:
        ConfigError: The coefficient is negative.
        UnknownIdError: No such estimator.
    """
    if estimator not in get_args(policy_loss.KLEstimator):
        raise UnknownIdError.of("KL estimator", estimator, get_args(policy_loss.KLEstimator))
    if coefficient < 0:
        raise ConfigError(f"kl_coefficient must be at least 0, not {coefficient}: below 0 it pushes the policy away.")
    if coefficient == 0:
        return base
    return replace(base, losses=(*base.losses, ReferenceKL(coefficient, estimator)), needs_reference=True)
