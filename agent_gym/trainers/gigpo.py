"""GiGPO: groups within groups. Turns of a task that answered the very same observation are compared with each other.

What a trajectory earned against the others of its task stays (GRPO); on top, each turn is credited with what came
after it, against what came after the other turns that saw the same. That needs no extra rollouts and no critic: in
agent tasks trajectories of a group come through the same states again and again.

Source: Feng et al., "Group-in-Group Policy Optimization for LLM Agent Training", 2025 (arXiv 2505.10978); verl-agent,
gigpo/core_gigpo.py.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from agent_gym.errors import ConfigError
from agent_gym.trainers import advantages
from agent_gym.trainers.algorithm import Algorithm
from agent_gym.trainers.bases import extends, require_shares
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.grpo import estimated_by, grpo


@dataclass(frozen=True, slots=True)
class GroupInGroupAdvantage:
    """`advantages.gigpo`, the same on every token of a turn."""

    step_weight: float = 1.0
    gamma: float = 0.95
    normalization: advantages.Normalization = "mean-std"
    over: Literal["trajectories", "turns"] = "trajectories"

    def __call__(self, batch: Batch, so_far: Tensor) -> Tensor:
        """Return advantages (B, T)."""
        turns = _Turns.of(batch)
        if len(turns.row) == 0:
            return torch.zeros_like(batch.mask)
        each = advantages.gigpo(
            batch.rewards[turns.row],
            turns.returns(batch, self.gamma),
            batch.groups[turns.row],
            turns.states(batch),
            weight=self.step_weight,
            normalization=self.normalization,
            trajectories=batch.trajectories[turns.row] if self.over == "trajectories" else None,
        )
        return turns.spread(each) * batch.mask


@dataclass(frozen=True, slots=True)
class _Turns:
    """The N turns of a batch that generated something, in the order of the rows."""

    row: Tensor
    """(N,) where each one stands."""
    number: Tensor
    """(N,) in its trajectory."""
    of_token: Tensor
    """(B, T) the turn of each generated token, N elsewhere."""

    @classmethod
    def of(cls, batch: Batch) -> Self:
        # Trajectories that a filter took out still count in what the others are compared with: not the mask decides.
        rows, columns = (batch.turns >= 0).nonzero(as_tuple=True)
        pairs, index = torch.stack([rows, batch.turns[rows, columns]]).unique(dim=1, return_inverse=True)
        of_token = torch.full_like(batch.turns, pairs.shape[1]).index_put((rows, columns), index)
        return cls(pairs[0], pairs[1], of_token)

    def returns(self, batch: Batch, gamma: float) -> Tensor:
        """Return each turn's discounted rewards up to the end of its trajectory, (N,)."""
        rewards = batch.rewards.new_zeros(len(self.row) + 1)
        rewards = rewards.index_add(0, self.of_token.flatten(), batch.token_rewards.flatten())[:-1]
        _, trajectory = batch.trajectories[self.row].unique(return_inverse=True)
        shape = (int(trajectory.max()) + 1, int(self.number.max()) + 1)
        place = (trajectory, self.number)
        grid = rewards.new_zeros(shape).index_put(place, rewards)
        present = rewards.new_zeros(shape).index_put(place, torch.ones_like(rewards))
        return advantages.discounted_returns(grid, present, gamma=gamma)[place]

    def states(self, batch: Batch) -> Tensor:
        """Return the number of the observation that each turn answered, (N,)."""
        numbers = batch.states.new_full((len(self.row) + 1,), -1)
        # Every token of a turn has the same number.
        return numbers.index_put((self.of_token,), batch.states)[:-1]

    def spread(self, values: Tensor) -> Tensor:
        """Bring values (N,) to the tokens of their turns, (B, T); 0 elsewhere."""
        return torch.cat([values, values.new_zeros(1)])[self.of_token]


@extends(grpo, without=("normalize_std", "over", "singletons"))
def gigpo(
    *,
    step_weight: float = 1.0,
    gamma: float = 0.95,
    normalization: advantages.Normalization = "mean-std",
    over: Literal["trajectories", "turns"] = "trajectories",
    **options: Any,
) -> Algorithm:
    """The base.

    Args:
        step_weight: Factor of the comparison within equal observations; 0 is GRPO.
        gamma: Discount a turn, from 0 to 1.
        normalization: "mean-std" divides both parts by the standard deviation of their group, "mean" neither.
        over: What counts once in a task's mean and standard deviation: "trajectories" (the paper), or "turns"
            (verl-agent, where long episodes have more say).
        **options: Those of `grpo`.

    Raises:
        ConfigError: No such `normalization` or `over`, or a discount out of range.
    """
    require_shares(gamma=gamma)
    for name, value, known in (
        ("normalization", normalization, get_args(advantages.Normalization)),
        ("over", over, ("trajectories", "turns")),
    ):
        if value not in known:
            raise ConfigError(f"GiGPO's {name} is one of {', '.join(known)}, not {value!r}.")
    stage = GroupInGroupAdvantage(step_weight, gamma, normalization, over)
    return replace(estimated_by(grpo(**options), stage), name="gigpo")
