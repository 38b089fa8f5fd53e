"""What each trajectory generated, in one row, however many rows of the batch it is spread over."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from agent_gym.trainers.batch import Batch


@dataclass(frozen=True, slots=True)
class Sequences:
    """A view of a batch: a row a trajectory, which holds its trained tokens alone, in the order they were generated.

    What belongs to the environment, prompts that are given again and padding are left out: between two tokens that
    stand side by side here no decision was made.
    """

    mask: Tensor
    """(N, L) 1 on tokens, 0 on padding at the right."""
    source: tuple[Tensor, Tensor]
    """Rows and columns in the batch of the M tokens."""
    place: tuple[Tensor, Tensor]
    """Rows and columns in this view of the M tokens."""
    shape: torch.Size
    """(B, T) of the batch."""

    @classmethod
    def of(cls, batch: Batch) -> Self:
        """Lay out the tokens on which the batch's mask is 1."""
        rows, columns = batch.mask.nonzero(as_tuple=True)
        # Both sorts are stable: by trajectory, in it by turn, in it as they stand.
        by_turn = batch.turns[rows, columns].argsort(stable=True)
        order = by_turn[batch.trajectories[rows[by_turn]].argsort(stable=True)]
        rows, columns = rows[order], columns[order]
        _, owner, counts = batch.trajectories[rows].unique(return_inverse=True, return_counts=True)
        offset = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[owner]
        mask = batch.mask.new_zeros(len(counts), int(counts.max()) if len(counts) else 0)
        mask[owner, offset] = 1
        return cls(mask, (rows, columns), (owner, offset), batch.mask.shape)

    def gather(self, values: Tensor) -> Tensor:
        """Bring values (B, T) of the batch into this view, (N, L); 0 on padding."""
        return values.new_zeros(self.mask.shape).index_put(self.place, values[self.source])

    def scatter(self, values: Tensor) -> Tensor:
        """Bring values (N, L) of this view back into the batch, (B, T); 0 where the batch's mask is 0."""
        return values.new_zeros(self.shape).index_put(self.source, values[self.place])
