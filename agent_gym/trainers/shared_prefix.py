"""Rows that begin alike are computed once: their tokens are packed into one row that is a forest of prefixes.

The attempts at a task share its prompt, and branches share everything before the fork. `pack` gives each token with
one and the same history a single node, lays all nodes end to end in one row, and says where every token of every row
went. The linear layers of a model then see each node once and no padding. Attention follows the tree: a node sees
its ancestors and itself, and nothing else. The mask for that is never made: it would have as many entries as the
square of the nodes, and its zeros would cost as much as the attention that they save. Instead each branch attends
to the path from its root, which is the same sum.

It plugs into a Hugging Face model through its attention interface, so that the model's own code runs all the rest.
The idea is that of the tree attention of SpecInfer (Miao et al., 2023, section 4.2), here with gradients.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from agent_gym.engines.attention import register_attention

NAME = "agent_gym_prefix_tree"
QUERIES = 128
"""Queries that attend in one call after a shared prefix: few, so that little of what is computed is masked."""


@dataclass(frozen=True, slots=True)
class Branch:
    """The nodes of one path that no earlier path has."""

    start: int
    end: int
    """Nodes start to end (exclusive) are its own."""
    shared: int
    """Ancestors of the first of them; the path has `shared + end - start` nodes."""


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """A forest over the tokens of B rows; a node is a token with its history, and comes after its ancestors."""

    tokens: Tensor
    """(N,) token id of each node."""
    depths: Tensor
    """(N,) position of each node in its rows, from 0."""
    parents: Tensor
    """(N,) node before each node; -1 at roots."""
    nodes: Tensor
    """(B, T) node of each token of each row; -1 on padding."""
    branches: tuple[Branch, ...]
    """Cut the nodes into runs, in order."""
    paths: Tensor
    """(P,) nodes from root to leaf of each branch's path, one path after the other."""


def pack(input_ids: Tensor, lengths: Tensor, groups: Tensor | None = None) -> PrefixTree:
    """Build the prefix forest of some rows.

    Rows are sorted, so that each shares its longest prefix with the row before it, and what it does not share is one
    run of new nodes.

    Args:
        input_ids: (B, T) token ids, not negative, padded on the right.
        lengths: (B,) tokens in each row; what stands after them is never looked at.
        groups: (B,) rows share nodes only where these numbers are equal; None lets all rows share.
    """
    columns = torch.arange(input_ids.shape[1], device=input_ids.device)
    real = columns < lengths.unsqueeze(1)
    order, shared = _sort(input_ids.masked_fill(~real, -1), groups)
    lengths, real = lengths[order], real[order]
    shared = shared.minimum(lengths)
    own = lengths - shared
    starts = own.cumsum(0) - own
    rows = torch.arange(len(order), device=order.device).unsqueeze(1)
    fresh = columns >= shared.unsqueeze(1)
    # A token that is not new belongs to the last row before whose own nodes reach back to its column.
    holder = torch.where(fresh, rows, -1).cummax(0).values
    nodes = (starts[holder] + columns - shared[holder]).masked_fill(~real, -1)
    fresh &= real
    return PrefixTree(
        tokens=input_ids[order][fresh],
        depths=columns.expand_as(fresh)[fresh],
        parents=pad(nodes[:, :-1], (1, 0), value=-1)[fresh],
        nodes=torch.empty_like(nodes).index_copy(0, order, nodes),
        branches=tuple(
            Branch(start, start + count, prefix)
            for start, count, prefix in torch.stack([starts, own, shared], 1).tolist()
            if count
        ),
        paths=nodes[real & (own > 0).unsqueeze(1)],
    )


def unique_tokens(input_ids: Tensor, lengths: Tensor, groups: Tensor | None = None) -> int:
    """Count the nodes that `pack` would make: the tokens left to compute of `lengths.sum()`."""
    real = torch.arange(input_ids.shape[1], device=input_ids.device) < lengths.unsqueeze(1)
    order, shared = _sort(input_ids.masked_fill(~real, -1), groups)
    return int((lengths[order] - shared.minimum(lengths[order])).sum())


def _sort(table: Tensor, groups: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the lexicographic order (B,) of rows, and how many columns (B,) each shares with the row before it."""
    extra = 0 if groups is None else 1
    if groups is not None:
        table = torch.cat([groups.unsqueeze(1), table], 1)
    order = table.unique(dim=0, return_inverse=True)[1].argsort(stable=True)
    table = table[order]
    common = (table[1:] == table[:-1]).long().cumprod(1).sum(1)
    return order, pad((common - extra).clamp(min=0), (1, 0))


def tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    prefix_tree: PrefixTree | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend from the nodes (1, H, N, D) of a prefix tree to each one's ancestors and itself; returns (1, N, H, D).

    Raises:
        NotImplementedError: The model asks for attention that this function does not compute (soft caps, sinks).
    """
    unsupported = [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    if prefix_tree is None or unsupported:
        raise NotImplementedError(f"tree attention without a tree or with {unsupported}")
    branches = prefix_tree.branches
    sizes = [branch.shared + branch.end - branch.start for branch in branches]
    queries = query.split([branch.end - branch.start for branch in branches], 2)
    keys, values = (_along_paths(tensor, prefix_tree.paths, query.shape[1]).split(sizes, 2) for tensor in (key, value))
    longest = max(sizes)
    mask = _last_queries(min(QUERIES, longest), longest, sliding_window, query)
    outputs = []
    for branch, size, own, path_keys, path_values in zip(branches, sizes, queries, keys, values, strict=True):
        if not branch.shared and (sliding_window is None or size <= sliding_window):
            outputs.append(
                scaled_dot_product_attention(
                    own, path_keys, path_values, is_causal=True, dropout_p=dropout, scale=scaling
                )
            )
            continue
        seen = branch.shared
        for part in own.split(QUERIES, 2):
            seen += part.shape[2]
            visible = mask[mask.shape[0] - part.shape[2] :, longest - seen :]
            outputs.append(
                scaled_dot_product_attention(
                    part,
                    path_keys[:, :, :seen],
                    path_values[:, :, :seen],
                    attn_mask=visible,
                    dropout_p=dropout,
                    scale=scaling,
                )
            )
    return torch.cat([output.transpose(1, 2) for output in outputs], 1), None


def _along_paths(tensor: Tensor, paths: Tensor, heads: int) -> Tensor:
    """Return the keys or values (1, H, P, D) along all paths from those of the nodes (1, G, N, D), G dividing H."""
    gathered = tensor[0].transpose(0, 1).index_select(0, paths)
    return gathered.repeat_interleave(heads // tensor.shape[1], 1).transpose(0, 1).unsqueeze(0)


def _last_queries(count: int, longest: int, window: int | None, like: Tensor) -> Tensor:
    """Return what the last `count` tokens of a path of `longest` may see (count, longest): 0, else minus infinity.

    The bottom right corner of it is the mask for fewer queries or a shorter path, so that one serves all branches.
    """
    mask = like.new_full((count, longest), float("-inf")).triu(longest - count + 1)
    if window is not None:
        mask += like.new_full((count, longest), float("-inf")).tril(longest - count - window)
    return mask


register_attention(NAME, tree_attention)
