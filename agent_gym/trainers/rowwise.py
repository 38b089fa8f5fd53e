"""What a model says of every row of a batch, without gradient: each process asks it about its share of the rows."""

from collections.abc import Callable

import torch
from torch import Tensor

from agent_gym.trainers.batch import Batch
from agent_gym.trainers.micro_batches import by_length, shares
from agent_gym.trainers.processes import Processes


@torch.no_grad()
def for_each_row(batch: Batch, score: Callable[[Batch], Tensor], processes: Processes, *, tokens: int) -> Tensor:
    """Return numbers (B, T) for all rows, on every process.

    Args:
        batch: The rows.
        score: Returns numbers (b, t) for some of the rows, cut to their own length, on any device. It is called
            equally often on every process, because a model that is spread over them needs all of them.
        processes: Those that have this batch.
        tokens: Tokens, padding included, that go through at once.
    """
    device = processes.accelerator.device
    result = torch.zeros_like(batch.mask)
    parts = [
        list(by_length(batch.lengths, rows, tokens))
        for rows in shares(batch.lengths, torch.arange(len(batch)), processes.count)
    ]
    for rows in parts[processes.rank]:
        part = batch.select(rows)
        result[rows, : part.mask.shape[1]] = score(part.to(device)).float().cpu()
    shortest = batch.lengths.argmin().view(1) if len(batch) else torch.arange(0)
    for _ in range(len(parts[processes.rank]), max(map(len, parts))):
        score(batch.select(shortest).to(device))
    return processes.sum(result)
