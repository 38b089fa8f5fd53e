"""EMPG: confident turns count more, uncertain ones less, and turns that lead to clarity are rewarded.

A policy gradient is large where the policy is uncertain and small where it is sure, whatever the advantage says. EMPG
undoes that coupling on the advantages; the loss stays as it is.

Source: Wang et al., "Harnessing Uncertainty: Entropy-Modulated Policy Gradients for Long-Horizon LLM Agents", 2025
(arXiv 2509.09265), and the pseudo-code of its project page; no training code was released.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from agent_gym.errors import ConfigError, TrainingError
from agent_gym.trainers.algorithm import Algorithm
from agent_gym.trainers.batch import Batch

_ROUNDING = 1e-6
"""Entropies whose range is within this share of the largest are taken as equal: the rest is float32 rounding."""


def modulate(
    advantages: Tensor,
    step_entropies: Tensor,
    trajectories: Tensor,
    *,
    k: float = 1.0,
    k_bonus: float = 1.0,
    zeta: float = 0.1,
    center: bool = True,
) -> Tensor:
    """Advantages of turns, scaled by how sure the policy was, plus a bonus for how sure it is in the turn after.

    With H in [0, 1] (the entropies, shifted and scaled by their range over the batch):
    A g(H) + zeta exp(-k_bonus H of the next turn), minus the mean of that over all turns.

    Args:
        advantages: (N,) one a turn.
        step_entropies: (N,) mean entropy of each turn's tokens under the policy that sampled them; the paper calls a
            turn a step.
        trajectories: (N,) numbers; the rows of one trajectory stand in the order of its turns, though not necessarily
            together.
        k: Strength of the scaling; 0 switches it off.
        k_bonus: Sharpness of the bonus.
        zeta: Size of the bonus; 0 switches it off. The last turn of a trajectory gets none.
        center: Subtract the mean over the turns, each of which counts once. The paper does; without it, k = 0 and
            zeta = 0 return the advantages as they are.

    Returns:
        Advantages (N,).

    Raises:
        TrainingError: An entropy or advantage is not finite.

    Source: the paper's modulated advantage; project page, pseudo-code.
    """
    _check(advantages, step_entropies)
    gains, bonuses = modulation(step_entropies, trajectories, k=k, k_bonus=k_bonus, zeta=zeta)
    changed = advantages * gains + bonuses
    return changed - changed.mean() if center and len(changed) else changed


def modulation(
    step_entropies: Tensor, trajectories: Tensor, *, k: float, k_bonus: float, zeta: float
) -> tuple[Tensor, Tensor]:
    """Return what each turn's advantage is multiplied by (mean 1), and what is added to it; arguments as above."""
    if len(step_entropies) == 0:
        return step_entropies, step_entropies
    normalised = _normalised(step_entropies)
    gains = torch.exp(-k * normalised)
    clarity = torch.exp(-k_bonus * normalised)
    following = _next_rows(trajectories)
    bonuses = torch.where(following >= 0, zeta * clarity[following.clamp(min=0)], 0.0)
    return gains / gains.mean(), bonuses


def _normalised(entropies: Tensor) -> Tensor:
    """Shift and scale to [0, 1]; equal entropies are all 0."""
    low, high = entropies.min(), entropies.max()
    spread = high - low
    if spread <= _ROUNDING * high.abs():
        return torch.zeros_like(entropies)
    return (entropies - low) / spread


def _next_rows(trajectories: Tensor) -> Tensor:
    """Return (N,) the row of the turn after each, -1 after the last one of a trajectory."""
    order = trajectories.argsort(stable=True)
    follows = trajectories[order][1:] == trajectories[order][:-1]
    following = torch.full_like(trajectories, -1)
    following[order[:-1]] = torch.where(follows, order[1:], -1)
    return following


def _check(advantages: Tensor, step_entropies: Tensor) -> None:
    for name, values in (("advantage", advantages), ("entropy", step_entropies)):
        if not torch.isfinite(values).all():
            raise TrainingError(f"EMPG got an {name} that is not finite: look at the rewards and the model's logits.")


@dataclass(frozen=True, slots=True)
class EntropyModulation:
    """`modulate` on the turns of a batch, whatever its rows are; an advantage stage.

    A turn's entropy is the mean over its tokens that are trained on. Advantages that differ within a turn (those of a
    critic) are scaled and shifted each, and the turn's mean is what is centred.
    """

    k: float = 1.0
    k_bonus: float = 1.0
    zeta: float = 0.1
    center: bool = True
    drop_equal_groups: bool = False
    """Leave groups whose trajectories all got the same reward as they are, and out of every range and mean. Their
    advantages are 0; otherwise bonus and centring make them differ from it."""

    def __call__(self, batch: Batch, so_far: Tensor) -> Tensor:
        """Return advantages (B, T)."""
        kept = batch.mask.bool()
        if self.drop_equal_groups:
            kept = kept & ~_equal_groups(batch).unsqueeze(1)
        _check(so_far[kept], batch.entropies[kept])
        owners = batch.trajectories.unsqueeze(1).expand_as(batch.turns)
        # Sorted by trajectory and then by turn, so that the next turn is the next row.
        units, of_token, counts = torch.stack([owners[kept], batch.turns[kept]], 1).unique(
            dim=0, return_inverse=True, return_counts=True
        )
        entropies = _turn_means(batch.entropies[kept], of_token, counts)
        gains, bonuses = modulation(entropies, units[:, 0], k=self.k, k_bonus=self.k_bonus, zeta=self.zeta)
        changed = so_far[kept] * gains[of_token] + bonuses[of_token]
        if self.center and len(units):
            changed = changed - _turn_means(changed, of_token, counts).mean()
        return so_far.masked_scatter(kept, changed.to(so_far.dtype))


def _turn_means(values: Tensor, of_token: Tensor, counts: Tensor) -> Tensor:
    """Return means (N,) of tokens (M,) over the turns that they are in, in double precision."""
    sums = torch.zeros(len(counts), dtype=torch.float64, device=values.device)
    return sums.index_add(0, of_token, values.double()) / counts


def _equal_groups(batch: Batch) -> Tensor:
    """Return (B,) whether all rewards of the row's group are equal."""
    _, index = batch.groups.unique(return_inverse=True)
    low, high = (
        torch.zeros_like(batch.rewards).scatter_reduce(0, index, batch.rewards, which, include_self=False)
        for which in ("amin", "amax")
    )
    return (low == high)[index]


def empg(
    base: Algorithm,
    *,
    k: float = 1.0,
    k_bonus: float = 1.0,
    zeta: float = 0.1,
    center: bool = True,
    drop_equal_groups: bool = False,
) -> Algorithm:
    """Add EMPG's modulation after an algorithm's advantages. The defaults are the project page's.

    Args:
        base: What is added to.
        k: Strength of the scaling; 0 switches it off.
        k_bonus: Sharpness of the bonus.
        zeta: Size of the bonus for turns before clear ones; 0 switches it off.
        center: Subtract the mean over the turns. With k = 0 and zeta = 0, what is left is the base's advantages minus
            their mean; with `center=False`, too, training is exactly that of the base.
        drop_equal_groups: Leave groups of equal rewards out, see `EntropyModulation`.

    Raises:
        ConfigError: A number is negative.
    """
    for name, value in (("k", k), ("k_bonus", k_bonus), ("zeta", zeta)):
        if not value >= 0:
            raise ConfigError(f"EMPG's {name} is {value}: it cannot be negative.")
    stage = EntropyModulation(k, k_bonus, zeta, center, drop_equal_groups)
    return replace(base, name=f"{base.name}+empg", advantages=(*base.advantages, stage))
