"""How the rows of an update are cut: into mini-batches, into shares of processes, into what goes through at once."""

import heapq
from collections.abc import Iterator

import torch
from torch import Tensor

from agent_gym.trainers.batch import Batch


def cut(count: int, parts: int, seed: int) -> list[Tensor]:
    """Return all rows in random order, cut into so many parts of equal size, the empty ones left out."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return [rows for rows in order.tensor_split(parts) if len(rows)]


def shares(lengths: Tensor, rows: Tensor, count: int) -> list[Tensor]:
    """Share rows out among processes, so that each has about as many tokens; longest rows first.

    Args:
        lengths: (B,) tokens of every row.
        rows: Those that are shared out.
        count: Processes.
    """
    if count == 1:
        return [rows]
    loads = [(0, process) for process in range(count)]
    shared: list[list[int]] = [[] for _ in range(count)]
    for row in rows[lengths[rows].argsort(descending=True, stable=True)].tolist():
        load, process = heapq.heappop(loads)
        shared[process].append(row)
        heapq.heappush(loads, (load + int(lengths[row]), process))
    return [torch.tensor(own, dtype=torch.long) for own in shared]


def runs(lengths: Tensor, rows: Tensor, count: int) -> list[Tensor]:
    """Share rows out in their order: runs of about as many tokens each, where neighbours belong together."""
    if count == 1:
        return [rows]
    ends = lengths[rows].cumsum(0)
    total = int(ends[-1]) if len(rows) else 0
    # The middle of a row decides whose it is.
    owner = ((ends - lengths[rows] / 2) * count / max(total, 1)).long().clamp(max=count - 1)
    return [rows[owner == process] for process in range(count)]


def by_likeness(batch: Batch, rows: Tensor) -> Tensor:
    """Return an order of rows in which those of a group, and what begins alike among them, stand together."""
    ids, groups = batch.input_ids[rows].tolist(), batch.groups[rows].tolist()
    return rows[torch.tensor(sorted(range(len(rows)), key=lambda row: (groups[row], ids[row])), dtype=torch.long)]


def by_length(lengths: Tensor, rows: Tensor, tokens: int) -> Iterator[Tensor]:
    """Cut rows into runs of similar length of at most so many tokens, so that little of each is padding."""
    return in_parts(lengths, rows[lengths[rows].argsort(descending=True, stable=True)], tokens)


def in_parts(lengths: Tensor, rows: Tensor, tokens: int) -> Iterator[Tensor]:
    """Cut rows, in their order, into runs of at most so many tokens, padding included; at least one row each."""
    start, longest = 0, 0
    for place, length in enumerate(lengths[rows].tolist()):
        longest = max(longest, length)
        if place > start and longest * (place - start + 1) > tokens:
            yield rows[start:place]
            start, longest = place, length
    if start < len(rows):
        yield rows[start:]


def end_to_end(lengths: Tensor, rows: Tensor, tokens: int) -> Iterator[Tensor]:
    """Cut rows, in their order, into runs of at most so many tokens without padding; at least one row each."""
    start, total = 0, 0
    for place, length in enumerate(lengths[rows].tolist()):
        if place > start and total + length > tokens:
            yield rows[start:place]
            start, total = place, 0
        total += length
    if start < len(rows):
        yield rows[start:]
