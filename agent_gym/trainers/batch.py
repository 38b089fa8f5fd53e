"""From trajectories to tensors: right-padded rows with everything that advantages and losses read."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from agent_gym.trajectory import Trajectory


@dataclass(slots=True)
class Batch:
    """Rows of tokens; one row a trajectory. Position t of every (B, T) tensor speaks of token t.

    Padding stands on the right, so that causal attention never sees it.
    """

    input_ids: Tensor
    """(B, T) token ids, padded with 0."""
    lengths: Tensor
    """(B,) tokens in each row."""
    mask: Tensor
    """(B, T) float; 1 on tokens that the model generated."""
    old_logprobs: Tensor
    """(B, T) log-probabilities under the policy that sampled them."""
    entropies: Tensor
    """(B, T) entropies in nats when they were sampled."""
    rewards: Tensor
    """(B,) one reward a row."""
    groups: Tensor
    """(B,) equal numbers are compared with each other."""
    advantages: Tensor
    """(B, T); 0 until the algorithm fills them."""
    weights: Tensor
    """(B, T) factors on every loss, 1 unless the algorithm sets them."""

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def select(self, rows: Tensor) -> Self:
        """Return the given rows, cut to the longest of them."""
        width = int(self.lengths[rows].max()) if len(rows) else 0
        parts = {field.name: getattr(self, field.name)[rows] for field in fields(self)}
        return replace(self, **{name: part[:, :width] if part.dim() == 2 else part for name, part in parts.items()})

    def to(self, device: torch.device) -> Self:
        """Return the batch on a device."""
        return replace(self, **{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def make_batch(trajectories: Sequence[Trajectory], rewards: Sequence[float], groups: Sequence[int]) -> Batch:
    """Lay trajectories out as rows.

    Args:
        trajectories: B of them.
        rewards: One a trajectory.
        groups: The number of each one's group.
    """
    mask = _pad([trajectory.action_mask for trajectory in trajectories], torch.float32)
    return Batch(
        input_ids=_pad([trajectory.token_ids for trajectory in trajectories], torch.long),
        lengths=torch.tensor([len(trajectory.token_ids) for trajectory in trajectories]),
        mask=mask,
        old_logprobs=_pad([trajectory.logprobs for trajectory in trajectories], torch.float32),
        entropies=_pad([trajectory.entropies for trajectory in trajectories], torch.float32),
        rewards=torch.tensor(rewards, dtype=torch.float32),
        groups=torch.tensor(groups),
        advantages=torch.zeros_like(mask),
        weights=torch.ones_like(mask),
    )


def _pad(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> Tensor:
    padded = torch.zeros(len(rows), max(map(len, rows), default=0), dtype=dtype)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = torch.tensor(row, dtype=dtype)
    return padded
