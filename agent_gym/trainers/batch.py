"""From trajectories to tensors: right-padded rows with everything that advantages and losses read."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import Self

import torch
from torch import Tensor

from agent_gym.errors import TrainingError
from agent_gym.trajectory import Trajectory, Turn


@dataclass(slots=True)
class Batch:
    """Rows of tokens. Position t of every (B, T) tensor speaks of token t.

    A trajectory whose prompts grow by appending is one row; one whose turns have a prompt each is as many rows as it
    has turns. Padding stands on the right, so that causal attention never sees it.
    """

    input_ids: Tensor
    """(B, T) token ids, padded with 0."""
    lengths: Tensor
    """(B,) tokens in each row."""
    mask: Tensor
    """(B, T) float; 1 on tokens that the model generated and that are trained on."""
    old_logprobs: Tensor
    """(B, T) log-probabilities under the policy that the ratios of losses start from: what the engine said, or what the
    trainer's own weights say before the first update, where the learner is told to ask them."""
    sampled_logprobs: Tensor
    """(B, T) log-probabilities that the engine said when it sampled them."""
    versions: Tensor
    """(B, T) version of the weights that sampled them, -1 on tokens that were not generated."""
    importance: Tensor
    """(B, T) factors on every loss that correct for the difference between the two, 1 unless the learner sets them."""
    entropies: Tensor
    """(B, T) entropies in nats when they were sampled."""
    rewards: Tensor
    """(B,) the reward of the row's whole trajectory."""
    token_rewards: Tensor
    """(B, T) the reward of each turn at its last generated token, 0 elsewhere."""
    groups: Tensor
    """(B,) equal numbers are compared with each other."""
    trajectories: Tensor
    """(B,) rows of one trajectory have the same number."""
    turns: Tensor
    """(B, T) number of the turn in its trajectory, -1 on tokens that were not generated."""
    states: Tensor
    """(B, T) number of the observation that the turn answered, -1 on tokens that were not generated. Equal in two
    places if and only if group and text are equal."""
    nodes: Tensor
    """(B, T) number of the token in the branch tree, -1 on tokens that were not generated. What a branch shares with
    its parent has the same numbers in both."""
    advantages: Tensor
    """(B, T); 0 until the algorithm fills them."""
    weights: Tensor
    """(B, T) factors on every loss, 1 unless the algorithm sets them."""
    ref_logprobs: Tensor
    """(B, T) log-probabilities under the reference policy; 0 unless the algorithm asks for them."""
    values: Tensor
    """(B, T) what the critic expected; 0 unless the algorithm has one."""
    returns: Tensor
    """(B, T) what the critic should have expected; 0 until the algorithm fills them."""

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

    def first_rows(self) -> tuple[Tensor, Tensor]:
        """Return the first row of each trajectory, (N,), and the place of each row's trajectory among these, (B,)."""
        _, place = self.trajectories.unique(return_inverse=True)
        rows = torch.arange(len(self), device=place.device)
        first = torch.full((int(place.max()) + 1 if len(self) else 0,), len(self), device=place.device)
        return first.scatter_reduce(0, place, rows, "amin"), place


@dataclass(frozen=True, slots=True)
class Row:
    """A run of turns that were generated from one growing prompt."""

    trajectory: Trajectory
    turns: list[tuple[int, Turn]]
    """With their numbers."""
    start: int
    """Offset of its first token in `Trajectory.token_ids`."""
    end: int
    last: bool
    """Whether the trajectory ends with it."""

    def cut(self, values: Sequence[float]) -> Sequence[float]:
        """Return, of numbers for all the trajectory's tokens, those of the row's."""
        return values[self.start : self.end]


def make_batch(
    trajectories: Sequence[Trajectory],
    rewards: Sequence[float] | Sequence[Sequence[float]],
    groups: Sequence[int],
    *,
    relatives: Sequence[Trajectory] = (),
) -> Batch:
    """Lay trajectories out as rows.

    Args:
        trajectories: N of them.
        rewards: For each trajectory one reward a turn, or one for all of it, which is put on its last token.
        groups: The number of each one's group.
        relatives: Trajectories that are not trained on (they failed, say), but that others branched from.

    Raises:
        TrainingError: A reward or a log-probability is not finite.
    """
    _check_finite(trajectories, rewards)
    rows, owners = [], []
    for number, trajectory in enumerate(trajectories):
        for row in row_places([trajectory]):
            rows.append(row)
            owners.append(number)
    mask = _pad([row.cut(row.trajectory.action_mask) for row in rows], torch.float32)
    turns, states, nodes, versions = (torch.full_like(mask, -1, dtype=torch.long) for _ in range(4))
    token_rewards = torch.zeros_like(mask)
    observations: dict[tuple[int, str], int] = {}
    tokens = _Nodes([*trajectories, *relatives])
    for index, (row, owner) in enumerate(zip(rows, owners, strict=True)):
        for number, turn in row.turns:
            place = slice(max(turn.start, row.start) - row.start, turn.end - row.start)
            state = observations.setdefault((groups[owner], turn.observation), len(observations))
            turns[index, place], states[index, place], versions[index, place] = number, state, turn.engine_version
        nodes[index, : row.end - row.start] = torch.tensor(row.cut(tokens.of(row.trajectory)), dtype=torch.long)
        _place_rewards(token_rewards[index], mask[index], row, rewards[owner])
    generated = mask.bool()
    sampled = _pad([row.cut(row.trajectory.logprobs) for row in rows], torch.float32)
    return Batch(
        input_ids=_pad([row.cut(row.trajectory.token_ids) for row in rows], torch.long),
        lengths=torch.tensor([row.end - row.start for row in rows], dtype=torch.long),
        mask=mask,
        old_logprobs=sampled,
        sampled_logprobs=sampled.clone(),
        versions=torch.where(generated, versions.clamp(min=0), -1),
        importance=torch.ones_like(mask),
        entropies=_pad([row.cut(row.trajectory.entropies) for row in rows], torch.float32),
        rewards=torch.tensor([_sum(rewards[owner]) for owner in owners], dtype=torch.float32),
        token_rewards=token_rewards,
        groups=torch.tensor([groups[owner] for owner in owners], dtype=torch.long),
        trajectories=torch.tensor(owners, dtype=torch.long),
        # What was generated outside of any recorded turn counts as the first one.
        turns=torch.where(generated, turns.clamp(min=0), -1),
        states=torch.where(generated, states, -1),
        nodes=torch.where(generated, nodes, -1),
        advantages=torch.zeros_like(mask),
        weights=torch.ones_like(mask),
        ref_logprobs=torch.zeros_like(mask),
        values=torch.zeros_like(mask),
        returns=torch.zeros_like(mask),
    )


def row_places(trajectories: Sequence[Trajectory]) -> Iterator[Row]:
    """Yield what each row of a batch of these trajectories holds: each is cut where a turn has a prompt of its own."""
    for trajectory in trajectories:
        numbered = enumerate(trajectory.turns)
        contexts = [(start, list(turns)) for start, turns in groupby(numbered, lambda each: each[1].context_start)]
        if not contexts:
            contexts = [(0, [])]
        for number, (start, turns) in enumerate(contexts):
            # A prompt that nothing was generated from belongs to no row.
            end = turns[-1][1].end if len(contexts) > 1 else len(trajectory.token_ids)
            yield Row(trajectory, turns, start, end, last=number == len(contexts) - 1)


def _place_rewards(target: Tensor, mask: Tensor, row: Row, rewards: float | Sequence[float]) -> None:
    """Write a trajectory's rewards, as far as they fall into this row, onto the last generated token of their turn."""
    if isinstance(rewards, Sequence):
        for number, turn in row.turns:
            target[turn.end - 1 - row.start] += rewards[number]
    elif row.last:
        generated = mask.nonzero()
        if len(generated):
            target[int(generated[-1])] += rewards


class _Nodes:
    """Numbers the tokens of trees of trajectories.

    Args:
        trajectories: All that others may have branched from, failed ones included.
    """

    def __init__(self, trajectories: Sequence[Trajectory]) -> None:
        self._by_id = {trajectory.id: trajectory for trajectory in trajectories if trajectory.id}
        self._known: dict[int, list[int]] = {}
        self._next = 0

    def of(self, trajectory: Trajectory) -> list[int]:
        """Return the number of each token: those of the parent up to where they parted, new ones after it."""
        known = self._known.get(id(trajectory))
        if known is None:
            parent = self._by_id.get(trajectory.parent_id or "")
            shared = self.of(parent)[: trajectory.branch_offset or 0] if parent is not None else []
            count = len(trajectory.token_ids) - len(shared)
            known = [*shared, *range(self._next, self._next + count)]
            self._next += count
            self._known[id(trajectory)] = known
        return known


def _check_finite(trajectories: Sequence[Trajectory], rewards: Sequence[float] | Sequence[Sequence[float]]) -> None:
    for trajectory, own in zip(trajectories, map(_listed, rewards), strict=True):
        # Each one by itself: infinities of both signs have no sum.
        broken = [reward for reward in own if not math.isfinite(reward)]
        if broken:
            raise TrainingError(
                f"The reward of episode {trajectory.id!r} (task {trajectory.task_id!r}) is {broken[0]}: look at the "
                "environment's rewards and at the reward functions."
            )
        if not (math.isfinite(sum(trajectory.logprobs)) and math.isfinite(sum(trajectory.entropies))):
            raise TrainingError(
                f"A log-probability or entropy of episode {trajectory.id!r} is not finite: the engine sampled from a "
                "broken model; lower the learning rate, or load an earlier checkpoint."
            )


def _sum(rewards: float | Sequence[float]) -> float:
    return math.fsum(_listed(rewards))


def _listed(rewards: float | Sequence[float]) -> Sequence[float]:
    return rewards if isinstance(rewards, Sequence) else [float(rewards)]


def _pad(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> Tensor:
    padded = torch.zeros(len(rows), max(map(len, rows), default=0), dtype=dtype)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = torch.tensor(row, dtype=dtype)
    return padded
