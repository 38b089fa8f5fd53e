"""A buffer of good rows of earlier steps, and a running baseline that tells how good they still are.

Knows no schedule, no loss and no model: the owner says when rows go in and come out, and what they count for.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from agent_gym.errors import ConfigError, TrainingError
from agent_gym.trainers.batch import Batch

_DUST = 1e-6
"""A reward must exceed the baseline by more than what float32 loses in a mean of equal rewards."""

_OVERFULL = 1.5
"""The released code replays when the buffer holds this many times its size."""

_FILLS = {"turns": -1, "states": -1, "nodes": -1, "versions": -1, "weights": 1, "importance": 1}
"""What stands in the padding of a batch; 0 in the fields that are not named."""

_NUMBERINGS = ("groups", "trajectories", "states", "nodes")
"""Fields whose numbers mean something within one batch only."""


def recalibrate(rewards: Tensor, baselines: Tensor, *, deviations: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """Judge old rewards by what is usual now: reward - median of recent baselines.

    Args:
        rewards: (N,) of stored trajectories.
        baselines: (M,) mean rewards of recent groups, at least one. The median of an even number lies half way.
        deviations: (M,) standard deviations of these groups; given, the result is divided by (their median + eps),
            as the released code does where its base divides by the standard deviation. The paper does not divide.
        eps: Added to the divisor.

    Returns:
        Advantages (N,).

    Raises:
        TrainingError: There is no baseline yet.

    Source: Qin et al., "SPEAR", 2025 (advantage recalibration); SPEAR, compute_grpo_outcome_advantage with
    custom_reward_mean_std.
    """
    centred = rewards.double() - median(baselines)
    if deviations is not None:
        centred = centred / (median(deviations) + eps)
    return centred.to(rewards.dtype)


def median(values: Tensor) -> float:
    """Return the median of values (M,), half way between the middle two of an even number.

    Raises:
        TrainingError: There are none.
    """
    if values.numel() == 0:
        raise TrainingError("There is no baseline to judge stored rewards by: add the groups of one step first.")
    return float(values.double().quantile(0.5))


def join(batches: Sequence[Batch]) -> Batch:
    """Put the rows of batches under each other, padded on the right to the widest.

    Groups, trajectories, states and nodes are numbered anew, so that what came from two batches is never taken for
    the same.

    Args:
        batches: At least one.
    """
    width = max(batch.mask.shape[1] for batch in batches)
    joined = {
        field.name: torch.cat([_widened(getattr(batch, field.name), width, field.name) for batch in batches])
        for field in fields(Batch)
    }
    sizes = torch.tensor([len(batch) for batch in batches])
    for name in _NUMBERINGS:
        joined[name] = _renumbered(joined[name], [getattr(batch, name) for batch in batches], sizes)
    return Batch(**joined)


@dataclass(frozen=True, slots=True)
class Draw:
    """Rows taken from a buffer."""

    rows: Batch
    """N rows whose advantages are the recalibrated ones."""
    ages: Tensor
    """(N,) steps since each row was stored."""


@dataclass(slots=True)
class _Stored:
    """The rows that one step has left in the buffer."""

    step: int
    rows: Batch


@dataclass(slots=True)
class _Baselines:
    """What the groups of one step came to."""

    step: int
    means: Tensor
    """(G,)"""
    deviations: Tensor
    """(G,)"""


class ReplayBuffer:
    """Keeps rows whose advantage was positive, with everything a loss reads, and the mean rewards of recent groups.

    It forgets rows first in, first out, by age and by number, so that its memory is bounded by `size` rows; with
    release "overfull" by the rows of `max_age` + 1 steps.

    Args:
        size: Most rows kept.
        baseline_size: Group means kept; the oldest step's are forgotten before new ones come in once there are more.
        max_age: Rows older than this many steps are forgotten.
        age_from: What age is measured against: the step that is asked for ("now"), or the newest step that left rows
            ("newest", as in the released code: rows then stay on through steps that store nothing).
        release: "always" gives rows in each step; "overfull" is the released code: nothing until more than 1.5 `size`
            rows would be replayed, then at most `size` of them, a power of two, and the buffer is emptied.
        spread: Divisor of the groups' standard deviations: "sample" (n - 1; the released code for mathematics) or
            "population" (n; that for agent environments).
        normalize_std: Divide recalibrated advantages by the median of the groups' standard deviations (the released
            code with a base that divides).
        stored_weight: Replay the stored advantages times this instead of recalibrated ones, and all rows (the released
            code's weight_decay_trajectory_replay); None recalibrates.
        fingerprint: What tells the owner's model from others, such as its type and the size of its vocabulary.

    Raises:
        ConfigError: A size or an age is out of range.

    Source: Qin et al., "SPEAR: Learn the Ropes, Then Trust the Wins", 2025; SPEAR, TrajectoryBufferBatch.
    """

    def __init__(
        self,
        *,
        size: int = 2048,
        baseline_size: int = 10240,
        max_age: int = 5,
        age_from: Literal["now", "newest"] = "now",
        release: Literal["always", "overfull"] = "always",
        spread: Literal["sample", "population"] = "sample",
        normalize_std: bool = False,
        stored_weight: float | None = None,
        fingerprint: str = "",
    ) -> None:
        if size < 1 or baseline_size < 1 or max_age < 1:
            raise ConfigError(
                "A replay buffer needs a size, a baseline size and an age of at least 1; to replay nothing, set the "
                "coefficient to 0."
            )
        if stored_weight is not None and not 0 < stored_weight <= 1:
            raise ConfigError(f"stored_weight is {stored_weight}: it lies in (0, 1], or is None to recalibrate.")
        self.size = size
        self.baseline_size = baseline_size
        self.max_age = max_age
        self.age_from = age_from
        self.release = release
        self.spread = spread
        self.normalize_std = normalize_std
        self.stored_weight = stored_weight
        self.fingerprint = fingerprint
        self._stored: deque[_Stored] = deque()
        self._history: deque[_Baselines] = deque()

    def __len__(self) -> int:
        """Rows in the buffer."""
        return sum(len(stored.rows) for stored in self._stored)

    @property
    def baselines(self) -> Tensor:
        """(M,) mean rewards of recent groups."""
        return torch.cat([torch.zeros(0, dtype=torch.double), *(each.means for each in self._history)])

    @property
    def deviations(self) -> Tensor:
        """(M,) standard deviations of these groups."""
        return torch.cat([torch.zeros(0, dtype=torch.double), *(each.deviations for each in self._history)])

    @property
    def rows(self) -> list[Batch]:
        """The rows kept, oldest step first."""
        return [stored.rows for stored in self._stored]

    def add(self, batch: Batch, step: int, *, allowed: Tensor | None = None) -> None:
        """Take in what a step has brought: its groups' means, and the rows whose mean advantage is above 0.

        Args:
            batch: Advantages filled. Rewards of rows that a filter took out still count in their group.
            step: Its number, not below that of an earlier call.
            allowed: (B,) bool; rows that may be kept at all (the released code for mathematics: those with a tool
                call). All by default.

        Raises:
            TrainingError: A reward or an advantage is not finite.
        """
        if not (torch.isfinite(batch.rewards).all() and torch.isfinite(batch.advantages).all()):
            raise TrainingError("A reward or an advantage is not finite: such rows are not kept for replay.")
        self._expire(step if self.age_from == "now" else self._newest())
        self._note_baselines(batch, step)
        good = (batch.advantages * batch.mask).sum(1) > 0
        if allowed is not None:
            good &= allowed
        if good.any():
            self._stored.append(_Stored(step, _copied(batch, good.nonzero().flatten())))
        if self.release == "always":
            self._shrink()

    def replayable(self) -> int:
        """Rows that would be replayed: those above the median of the baselines, or all with a `stored_weight`."""
        return sum(len(self._good(stored.rows)) for stored in self._stored)

    def draw(self, step: int, *, generator: torch.Generator, limit: int | None = None) -> Draw | None:
        """Take rows whose recalibrated advantage is above 0, at random where there are too many, in stored order.

        Args:
            step: The step that they are for.
            generator: Chooses.
            limit: Most rows; all by default. Release "overfull" has its own limit.

        Returns:
            The rows, or None where there are none to replay in this step.
        """
        if self.age_from == "now":
            self._expire(step)
        count = self.replayable()
        if self.release == "overfull":
            if count <= _OVERFULL * self.size:
                return None
            limit = min(_power_of_two(count), self.size)
        if count == 0 or limit == 0:
            return None
        chosen = torch.randperm(count, generator=generator)[:limit].sort().values
        draw = self._gather(chosen, step)
        if self.release == "overfull":
            self._stored.clear()
        return draw

    def state_dict(self) -> dict[str, Any]:
        """Return rows, history and fingerprint: plain tensors, numbers and strings."""
        return {
            "fingerprint": self.fingerprint,
            "stored": [{"step": each.step, "rows": _as_dict(each.rows)} for each in self._stored],
            "history": [
                {"step": each.step, "means": each.means, "deviations": each.deviations} for each in self._history
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned.

        Raises:
            TrainingError: The rows are those of another model.
        """
        if state["fingerprint"] != self.fingerprint:
            raise TrainingError(
                f"The replay buffer was filled by another model ({state['fingerprint'] or 'unnamed'}, this one is "
                f"{self.fingerprint or 'unnamed'}): resume with that model, or start a new run."
            )
        self._stored = deque(_Stored(each["step"], Batch(**each["rows"])) for each in state["stored"])
        self._history = deque(_Baselines(**each) for each in state["history"])

    def _good(self, rows: Batch) -> Tensor:
        """Return the rows, (N,), that may be replayed."""
        if self.stored_weight is not None:
            return torch.arange(len(rows))
        return (recalibrate(rows.rewards.double(), self.baselines) > _DUST).nonzero().flatten()

    def _gather(self, chosen: Tensor, step: int) -> Draw:
        """Put the chosen ones (sorted) of all rows that may be replayed into one batch."""
        parts, ages, start = [], [], 0
        for stored in self._stored:
            good = self._good(stored.rows)
            own = chosen[(chosen >= start) & (chosen < start + len(good))] - start
            start += len(good)
            if len(own):
                parts.append(stored.rows.select(good[own]))
                ages.append(torch.full((len(own),), step - stored.step))
        rows = join(parts)
        if self.stored_weight is not None:
            return Draw(replace(rows, advantages=self.stored_weight * rows.advantages), torch.cat(ages))
        deviations = self.deviations if self.normalize_std else None
        advantages = recalibrate(rows.rewards, self.baselines, deviations=deviations)
        return Draw(replace(rows, advantages=advantages.unsqueeze(1) * rows.mask), torch.cat(ages))

    def _note_baselines(self, batch: Batch, step: int) -> None:
        """Write down mean and standard deviation of each group's rewards, each trajectory counted once."""
        while sum(len(each.means) for each in self._history) > self.baseline_size:
            self._history.popleft()
        first, _ = batch.first_rows()
        rewards = batch.rewards[first].cpu().double()
        means, deviations = [], []
        for group in batch.groups.unique():
            own = rewards[batch.groups[first].cpu() == group.cpu()]
            means.append(own.mean())
            deviations.append(own.std(correction=int(self.spread == "sample" and len(own) > 1)))
        if means:
            self._history.append(_Baselines(step, torch.stack(means), torch.stack(deviations)))

    def _newest(self) -> int:
        return self._stored[-1].step if self._stored else 0

    def _expire(self, now: int) -> None:
        while self._stored and now - self._stored[0].step > self.max_age:
            self._stored.popleft()

    def _shrink(self) -> None:
        """Forget the oldest rows beyond the size."""
        excess = len(self) - self.size
        while excess > 0:
            oldest = self._stored[0]
            if len(oldest.rows) <= excess:
                self._stored.popleft()
            else:
                oldest.rows = _copied(oldest.rows, torch.arange(excess, len(oldest.rows)))
            excess = len(self) - self.size


def _copied(batch: Batch, rows: Tensor) -> Batch:
    """Return rows that share no memory with the batch, on the CPU and cut to the longest of them."""
    kept = batch.select(rows.to(batch.lengths.device)).to(torch.device("cpu"))
    # A cut tensor would keep its whole storage alive, and have it saved.
    return replace(kept, **{name: value.clone() for name, value in _as_dict(kept).items()})


def _as_dict(batch: Batch) -> dict[str, Tensor]:
    return {field.name: getattr(batch, field.name) for field in fields(batch)}


def _widened(values: Tensor, width: int, name: str) -> Tensor:
    if values.dim() == 1 or values.shape[1] == width:
        return values
    return torch.nn.functional.pad(values, (0, width - values.shape[1]), value=_FILLS.get(name, 0))


def _renumbered(joined: Tensor, parts: Sequence[Tensor], sizes: Tensor) -> Tensor:
    """Add to each part's numbers what the parts before it have used; -1 stays."""
    used = torch.tensor([int(part.max()) + 1 if part.numel() else 0 for part in parts])
    offsets = (used.cumsum(0) - used).repeat_interleave(sizes)
    offsets = offsets.view(-1, *[1] * (joined.dim() - 1))
    return torch.where(joined >= 0, joined + offsets, joined)


def _power_of_two(count: int) -> int:
    """Return the largest power of two up to a count; 0 for a count of 1, which the released code does not replay."""
    return 1 << (count.bit_length() - 1) if count > 1 else 0
