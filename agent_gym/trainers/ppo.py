"""PPO: the clipped surrogate with a critic, which says what was to be expected at each token.

Advantages are generalised advantage estimates over what a trajectory generated: what the environment says between two
turns takes no time, and the critic's values there are not read.

Source: Schulman et al., "Proximal Policy Optimization Algorithms", 2017; Schulman et al., "High-Dimensional Continuous
Control Using Generalized Advantage Estimation", 2015; verl, compute_gae_advantage_return.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from agent_gym.errors import ConfigError
from agent_gym.trainers import advantages
from agent_gym.trainers.algorithm import Algorithm, CriticSettings
from agent_gym.trainers.bases import extends, require_shares
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.grpo import estimated_by, grpo
from agent_gym.trainers.sequences import Sequences


@dataclass(frozen=True, slots=True)
class GeneralizedAdvantage:
    """`advantages.gae` over a trajectory's own tokens, in whatever rows these stand, whitened over the batch.

    Also fills `Batch.returns`, which the critic learns.
    """

    gamma: float = 1.0
    lam: float = 1.0
    whitened: bool = True

    def __call__(self, batch: Batch, so_far: Tensor) -> Tensor:
        """Return advantages (B, T)."""
        own = Sequences.of(batch)
        estimates, returns = advantages.gae(
            own.gather(batch.token_rewards), own.gather(batch.values), own.mask, gamma=self.gamma, lam=self.lam
        )
        batch.returns = own.scatter(returns)
        return own.scatter(advantages.whiten(estimates, own.mask) if self.whitened else estimates)


@extends(grpo, without=("normalize_std", "over", "singletons"))
def ppo(
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
    whitened: bool = True,
    critic_learning_rate: float = 1e-5,
    value_clip: float = 0.5,
    critic_updates_per_step: int = 1,
    critic_warmup_steps: int = 0,
    **options: Any,
) -> Algorithm:
    """The base. Nothing is compared within a group, whose size is only how often a task is played.

    Args:
        gamma: Discount a generated token, from 0 to 1.
        lam: How far ahead rewards are trusted over the critic: 1 is Monte Carlo, 0 one token.
        whitened: Shift and scale the advantages of a batch to mean 0 and variance 1.
        critic_learning_rate: Of the critic's own optimiser (AdamW).
        value_clip: How far a value may move within a step before its error counts as if it had not.
        critic_updates_per_step: Optimiser steps of the critic, each on an equal share of the rows.
        critic_warmup_steps: Steps in which the critic's learning rate rises to its full size.
        **options: Those of `grpo`.

    Raises:
        ConfigError: A discount out of range, or a critic that is not trained.
    """
    require_shares(gamma=gamma, lam=lam)
    if critic_updates_per_step < 1 or critic_learning_rate <= 0:
        raise ConfigError(
            "PPO's critic has to be trained: set critic_learning_rate above 0 and critic_updates_per_step to at least "
            "1."
        )
    critic = CriticSettings(
        learning_rate=critic_learning_rate,
        clip=value_clip,
        updates_per_step=critic_updates_per_step,
        warmup_steps=critic_warmup_steps,
    )
    stage = GeneralizedAdvantage(gamma, lam, whitened)
    return replace(estimated_by(grpo(**options), stage), name="ppo", critic=critic)
