"""Two ways to read new tokens of many conversations: packed through slots (fast), or row by row (any model)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from agent_gym.engines.attention import attending_through
from agent_gym.engines.slots import NAME, SlotCache, make_plan


@dataclass(slots=True)
class Row:
    """New tokens of one conversation."""

    state: Any
    """What the runner keeps for the conversation; None at its start. The runner fills it in."""
    past: int
    """Tokens read before."""
    new_ids: list[int]


@dataclass(eq=False)
class Slot:
    """A conversation's place in the cache; the index moves when slots are made dense."""

    index: int
    length: int = 0


class SlotRunner:
    """Reads all rows in one forward pass, see `slots`."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.cache = SlotCache()
        self._slots: list[Slot] = []

    def forward(self, rows: Sequence[Row]) -> Tensor:
        """Read the new tokens of each row; return the logits (R, V) after the last one of each.

        A long prompt that several rows begin with (the members of a group) is read once and its cache copied.
        """
        leaders = _leaders(rows)
        for row in rows:
            if row.state is None:
                row.state = self._allocate()
        longest = max(row.past + len(row.new_ids) for row in rows)
        self.cache.reserve(len(self._slots), longest)
        read = [row for index, row in enumerate(rows) if leaders[index] == index]
        logits = self._read(read)
        for row in rows:
            row.state.length = row.past + len(row.new_ids)
        if len(read) == len(rows):
            return logits
        place = {id(row): number for number, row in enumerate(read)}
        for index, row in enumerate(rows):
            if leaders[index] != index:
                self.cache.copy(rows[leaders[index]].state.index, row.state.index, row.state.length)
        return logits[torch.tensor([place[id(rows[leader])] for leader in leaders], device=logits.device)]

    def fork(self, state: Slot | None, length: int) -> Slot | None:
        """Copy a conversation's cache to a slot of its own."""
        if state is None:
            return None
        child = self._allocate()
        self.cache.copy(state.index, child.index, length)
        child.length = length
        return child

    def free(self, state: Slot | None) -> None:
        """Give a slot back; the last slot moves into its place."""
        if state is None:
            return
        last = self._slots.pop()
        if last is not state:
            self.cache.copy(last.index, state.index, last.length)
            last.index = state.index
            self._slots[last.index] = last

    def difference_from_model(self) -> float | None:
        """Return how far these logits are from the model's own on a probe, as a share of the largest of them.

        None means that the model cannot run so.

        The probe reads a prompt, goes on by one token and by several, with two conversations of different lengths.
        """
        vocabulary = int(self.model.get_input_embeddings().weight.shape[0])
        probes = [[(7 * i + 3) % vocabulary for i in range(9)], [(5 * i + 1) % vocabulary for i in range(6)]]
        device = self.model.device
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                expected = torch.stack(
                    [self.model(torch.tensor([probe], device=device)).logits[0, -1] for probe in probes]
                )
                first = [Row(None, 0, probes[0][:4]), Row(None, 0, probes[1][:5])]
                self.forward(first)
                second = [Row(first[0].state, 4, probes[0][4:])]
                one = self.forward(second)
                two = self.forward([Row(first[1].state, 5, probes[1][5:])])
            return float((torch.cat([one, two]) - expected).abs().max() / expected.abs().max())
        except (NotImplementedError, TypeError, ValueError, RuntimeError, AttributeError):
            return None
        finally:
            self.model.train(training)

    def _allocate(self) -> Slot:
        slot = Slot(len(self._slots))
        self._slots.append(slot)
        self.cache.reserve(len(self._slots), 1)
        return slot

    def _read(self, rows: Sequence[Row]) -> Tensor:
        device = self.model.device
        # Single tokens come first, in the order of their slots, so that attention need not gather them.
        order = sorted(range(len(rows)), key=lambda place: (len(rows[place].new_ids) > 1, rows[place].state.index))
        packed = [rows[place] for place in order]
        layout = [(row.state.index, row.past, len(row.new_ids)) for row in packed]
        plan = make_plan(self.cache, layout, device, self.model.dtype)
        input_ids = torch.tensor([[token for row in packed for token in row.new_ids]], device=device)
        ends = [0] * len(rows)
        last = -1
        for place, row in zip(order, packed, strict=True):
            last += len(row.new_ids)
            ends[place] = last
        with attending_through(self.model, NAME):
            output = self.model(
                input_ids=input_ids,
                position_ids=plan.positions.unsqueeze(0),
                use_cache=False,
                logits_to_keep=torch.tensor(ends, device=device),
                slot_plan=plan,
            )
        logits: Tensor = output.logits[0]
        return logits


@dataclass(slots=True)
class Transcript:
    """What the sequential runner keeps: the model's own cache, or the tokens where the model has none."""

    token_ids: list[int]
    cache: Any = None


class SequentialRunner:
    """Reads one row at a time with the model's own cache: slow, and right for every causal model.

    A model whose output carries no `past_key_values` (state-space models, say) reads its whole context again.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def forward(self, rows: Sequence[Row]) -> Tensor:
        """Read the new tokens of each row; return the logits (R, V) after the last one of each."""
        logits = []
        for row in rows:
            state = row.state or Transcript([])
            state.token_ids.extend(row.new_ids)
            unread = row.new_ids if state.cache is not None else state.token_ids
            input_ids = torch.tensor([unread], device=self.model.device)
            output = self.model(input_ids=input_ids, past_key_values=state.cache, use_cache=True)
            state.cache = getattr(output, "past_key_values", None)
            row.state = state
            logits.append(output.logits[0, -1])
        return torch.stack(logits)

    def fork(self, state: Transcript | None, length: int) -> Transcript | None:
        """Copy a conversation's cache; where it is cut shorter, the model will read what is left of it again.

        Not every model's cache can be cut: a state has forgotten what it was, a window what it has left behind.
        """
        if state is None or length == len(state.token_ids):
            return copy.deepcopy(state)
        return Transcript(state.token_ids[:length]) if length else None

    def free(self, state: Transcript | None) -> None:
        """Nothing to do: the cache goes with its session."""


def _leaders(rows: Sequence[Row]) -> list[int]:
    """Return for each row the index of the first row that begins with the very same prompt (itself, mostly)."""
    first: dict[tuple[int, ...], int] = {}
    leaders = []
    for index, row in enumerate(rows):
        fresh = row.past == 0 and len(row.new_ids) > 1
        leaders.append(first.setdefault(tuple(row.new_ids), index) if fresh else index)
    return leaders
