"""Self-imitation: a replay that trains again on what went well in earlier steps.

Source: Oh et al., "Self-Imitation Learning", 2018; Qin et al., "SPEAR: Learn the Ropes, Then Trust the Wins", 2025.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch

from agent_gym.rollout.seeds import derive_seed
from agent_gym.trainers.algorithm import Progress
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.replay_buffer import Draw, ReplayBuffer

Mode = Literal["summed", "alternate"]


class SelfImitation:
    """Replays what went well in earlier steps.

    Args:
        buffer: Where the rows are kept.
        weight: What imitation weighs in a step, whose number it is given; the first one is 1.
        mode: "summed" (the paper): each optimiser step minimises the sum of both losses. "alternate" (the released
            code): replayed rows get optimiser steps of their own after the others.
        rows: Most rows in a step; None for as many as the step before has brought.
        seed: Of the choice among more rows than that; the step's number is mixed in.
    """

    def __init__(
        self,
        buffer: ReplayBuffer,
        *,
        weight: Callable[[int], float],
        mode: Mode = "summed",
        rows: int | None = None,
        seed: int = 0,
    ) -> None:
        self.buffer = buffer
        self.weight = weight
        self.mode: Mode = mode
        self.rows = rows
        self.seed = seed
        self._last_rows = 0
        self._draw: Draw | None = None

    def bind(self, fingerprint: str) -> None:
        """Say whose rows these are: a state that comes from another model is then refused."""
        self.buffer.fingerprint = fingerprint

    def sample(self, progress: Progress) -> Batch | None:
        """Return rows with recalibrated advantages, each token weighing what imitation weighs in this step.

        None while the weight is 0, the buffer is empty, or nothing in it is above the baseline.
        """
        self._draw, weight = None, self.weight(progress.step + 1)
        if weight == 0:
            return None
        chance = torch.Generator().manual_seed(derive_seed(self.seed, "self-imitation", progress.step))
        limit = self._last_rows if self.rows is None else self.rows
        self._draw = self.buffer.draw(progress.step, generator=chance, limit=limit)
        if self._draw is None:
            return None
        rows = self._draw.rows
        return replace(rows, weights=torch.full_like(rows.weights, weight))

    def add(self, batch: Batch, progress: Progress) -> Mapping[str, float]:
        """Take in the rows of the step just made; return what to log."""
        self.buffer.add(batch, progress.step)
        self._last_rows = len(batch)
        logged = {
            "imitation_weight": self.weight(progress.step + 1),
            "replay_rows": float(len(self._draw.rows)) if self._draw else 0.0,
            "replay_buffer_rows": float(len(self.buffer)),
            "replay_baseline": float(self.buffer.baselines.quantile(0.5)),
        }
        if self._draw is not None:
            logged["replay_age"] = float(self._draw.ages.double().mean())
        self._draw = None
        return logged

    def state_dict(self) -> dict[str, Any]:
        """Return the buffer's state, and how many rows the last step brought."""
        return {"buffer": self.buffer.state_dict(), "last_rows": self._last_rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.buffer.load_state_dict(state["buffer"])
        self._last_rows = int(state["last_rows"])
