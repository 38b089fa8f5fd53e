"""Key-value caches of many conversations, and a forward pass over all of their new tokens at once.

The new tokens of all rows, single ones and whole prompts alike, are laid end to end in one row, so that no padding
goes through the linear layers; attention reads each conversation's own slot of a preallocated cache. It plugs into
a Hugging Face model through its attention interface, so that the model's own code runs everything else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from agent_gym.engines.attention import register_attention

NAME = "agent_gym_slots"
_ROUND = 128


@dataclass(slots=True)
class Chunk:
    """Several new tokens of one slot: packed positions [start, end), after `past` cached ones."""

    start: int
    end: int
    slot: int
    past: int
    mask: Tensor | None
    """(new, past + new) 0 where a new token sees, else minus infinity; None where plain causal attention is meant (no
    past)."""


@dataclass(slots=True)
class Plan:
    """Where each packed token belongs; handed to the attention function through the model's keyword arguments."""

    cache: "SlotCache"
    slots: Tensor
    """(N,) slot of each packed token."""
    positions: Tensor
    """(N,) position of each packed token in its conversation."""
    singles: Tensor | slice
    """(R,) packed indices of the rows with one new token, in the order of their slots; a slice where they stand side by
    side, so that nothing is gathered."""
    single_slots: Tensor
    """(R,) their slots."""
    single_mask: Tensor
    """(S, 1, 1, L) 0 where a slot may see a cached position, else minus infinity; rows without a single new token are
    arbitrary, but see something."""
    chunks: list[Chunk]


class SlotCache:
    """Keys and values, one tensor (slots, heads, length, width) a layer, grown by doubling.

    Slots are dense: `release` moves the last slot into the hole, so that attention runs over a slice and never gathers.
    """

    def __init__(self) -> None:
        self.slots = 0
        self.length = 0
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def reserve(self, slots: int, length: int) -> None:
        """Make room for `slots` slots of `length` tokens; contents are kept."""
        self.slots = max(self.slots, 1 << (slots - 1).bit_length())
        self.length = max(self.length, -(-length // _ROUND) * _ROUND)

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tensors of a layer, made or grown to the reserved size."""
        if index not in self.keys:
            self.keys[index] = key.new_zeros(self.slots, key.shape[1], self.length, key.shape[3])
            self.values[index] = value.new_zeros(self.slots, value.shape[1], self.length, value.shape[3])
        elif self.keys[index].shape[0] < self.slots or self.keys[index].shape[2] < self.length:
            self.keys[index] = self._grown(self.keys[index])
            self.values[index] = self._grown(self.values[index])
        return self.keys[index], self.values[index]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one slot to another."""
        if not length:
            return  # The source may have a slot in no layer yet.
        self.reserve(target + 1, length)
        for tensors in (self.keys, self.values):
            for index, tensor in tensors.items():
                grown = tensor if target < tensor.shape[0] else self._grown(tensor)
                grown[target, :, :length] = grown[source, :, :length]
                tensors[index] = grown

    def _grown(self, tensor: Tensor) -> Tensor:
        slots, heads, length, width = tensor.shape
        grown = tensor.new_zeros(max(slots, self.slots), heads, max(length, self.length), width)
        grown[:slots, :, :length] = tensor
        return grown


def make_plan(
    cache: SlotCache,
    rows: Sequence[tuple[int, int, int]],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Plan:
    """Lay out a forward pass.

    Args:
        cache: The cache that the rows live in.
        rows: For each row (slot, number of cached tokens, number of new tokens), packed in this order.
        device: Where the model runs.
        dtype: What it computes in; masks of another type would be converted in each layer anew.
    """
    slots: list[int] = []
    positions: list[int] = []
    singles: list[tuple[int, int, int]] = []
    chunks: list[Chunk] = []
    for slot, past, count in rows:
        if count == 1:
            singles.append((slot, len(slots), past))
        else:
            mask = _causal(past, past + count, device, dtype) if past else None
            chunks.append(Chunk(len(slots), len(slots) + count, slot, past, mask))
        slots.extend([slot] * count)
        positions.extend(range(past, past + count))
    singles.sort()
    single_slots = torch.tensor([slot for slot, _, _ in singles], dtype=torch.long)
    live = max(slots) + 1
    longest = max((past for _, _, past in singles), default=0) + 1
    visible = torch.zeros(live, dtype=torch.long)
    visible[single_slots] = torch.tensor([past for _, _, past in singles], dtype=torch.long)
    seen = torch.arange(longest).unsqueeze(0) <= visible.unsqueeze(1)
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))
    places = [index for _, index, _ in singles]
    side_by_side = places == list(range(len(places)))
    return Plan(
        cache=cache,
        slots=torch.tensor(slots, dtype=torch.long, device=device),
        positions=torch.tensor(positions, dtype=torch.long, device=device),
        singles=slice(0, len(places)) if side_by_side else torch.tensor(places, dtype=torch.long, device=device),
        single_slots=single_slots.to(device),
        single_mask=mask[:, None, None, :].to(device),
        chunks=chunks,
    )


def slot_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    slot_plan: Plan | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend from packed new tokens (1, H, N, D) to each token's own slot; returns (1, N, H, D).

    Raises:
        NotImplementedError: The model asks for attention that this function does not compute (windows, soft caps).
    """
    unsupported = [name for name in ("sliding_window", "softcap", "s_aux") if kwargs.get(name) is not None]
    if slot_plan is None or unsupported:
        raise NotImplementedError(f"slot attention without a plan or with {unsupported}")
    plan = slot_plan
    keys, values = plan.cache.layer(int(module.layer_idx), key, value)  # type: ignore[arg-type]
    keys[plan.slots, :, plan.positions] = key[0].transpose(0, 1)
    values[plan.slots, :, plan.positions] = value[0].transpose(0, 1)
    output = query.new_empty(query.shape[2], query.shape[1], value.shape[3])
    if len(plan.single_slots):
        output[plan.singles] = _attend_singles(plan, query, keys, values, scaling)
    for chunk in plan.chunks:
        end = chunk.past + chunk.end - chunk.start
        attended = _attend_chunk(
            query[:, :, chunk.start : chunk.end],
            keys[chunk.slot : chunk.slot + 1, :, :end],
            values[chunk.slot : chunk.slot + 1, :, :end],
            chunk.mask,
            scaling,
        )
        output[chunk.start : chunk.end] = attended[0].transpose(0, 1)
    return output.unsqueeze(0), None


def _attend_singles(plan: Plan, query: Tensor, keys: Tensor, values: Tensor, scaling: float | None) -> Tensor:
    """Attend from one token a slot, over all live slots in one call; returns (R, H, D).

    The H queries that share a head of keys stand where several tokens would: kernels that take a mask know no groups.
    """
    live, longest = plan.single_mask.shape[0], plan.single_mask.shape[3]
    own = query[0].transpose(0, 1)[plan.singles]
    all_live = len(plan.single_slots) == live
    if all_live:
        spread = own
    else:
        spread = own.new_zeros(live, *own.shape[1:])
        spread[plan.single_slots] = own
    attended = scaled_dot_product_attention(
        spread.unflatten(1, (keys.shape[1], -1)),
        keys[:live, :, :longest],
        values[:live, :, :longest],
        attn_mask=plan.single_mask.to(query.dtype),
        scale=scaling,
    ).flatten(1, 2)
    return attended if all_live else attended[plan.single_slots]


def _attend_chunk(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """Attend from several tokens of one slot, (1, H, n, D) to (1, G, L, D) with G dividing H; returns (1, H, n, D)."""
    heads, count = query.shape[1:3]
    share = heads // keys.shape[1]
    if mask is None:
        return scaled_dot_product_attention(query, keys, values, is_causal=True, scale=scaling, enable_gqa=share > 1)
    folded = query.unflatten(1, (keys.shape[1], share)).flatten(2, 3)
    seen = mask.to(query.dtype).repeat(share, 1)
    attended = scaled_dot_product_attention(folded, keys, values, attn_mask=seen, scale=scaling)
    unfolded: Tensor = attended.unflatten(2, (share, count)).flatten(1, 2)
    return unfolded


def _causal(past: int, end: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.full((end - past, end), float("-inf"), dtype=dtype, device=device).triu(past + 1)


register_attention(NAME, slot_attention)
