"""An episode as a row of the table `trajectories`, and back.

Storing is part of what a turn costs, so that nothing is written that can be told without it: the names of a turn's
fields stand once an episode, and log-probabilities and entropies for the tokens that the model generated alone. Rows of
earlier versions, where each turn names its fields and every token has its numbers, are read all the same.
"""

import json
import math
import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent_gym.trajectory import Trajectory, Turn

COLUMNS = (
    *("id", "step", "phase", "group_id", "task_id", "env_id", "seed", "goal", "success", "score", "reward"),
    *("terminated", "truncated", "error", "parent_id", "branch_turn", "branch_offset", "final_observation"),
    *("metadata", "turns", "token_ids", "action_mask", "logprobs", "entropies"),
)
INSERT = f"INSERT INTO trajectories ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"

_TURN_NAMES = tuple(field.name for field in fields(Turn))
_turn_values = attrgetter(*_TURN_NAMES)
_to_json = json.JSONEncoder(check_circular=False).encode


def row_of(trajectory: Trajectory, step: int, phase: str) -> tuple[object, ...]:
    """Return the values of all columns."""
    mask = bytes(trajectory.action_mask)
    marked = np.frombuffer(mask, np.uint8) != 0
    return (
        trajectory.id,
        step,
        phase,
        trajectory.group_id,
        trajectory.task_id,
        trajectory.env_id,
        trajectory.seed,
        trajectory.goal,
        trajectory.success,
        trajectory.score,
        trajectory.reward,
        trajectory.terminated,
        trajectory.truncated,
        trajectory.error,
        trajectory.parent_id,
        trajectory.branch_turn,
        trajectory.branch_offset,
        trajectory.final_observation,
        json.dumps(trajectory.metadata),
        _to_json(dict(zip(_TURN_NAMES, zip(*map(_turn_values, trajectory.turns), strict=True), strict=False))),
        _packed("i", trajectory.token_ids),
        mask,
        _generated(_packed("f", trajectory.logprobs), marked),
        _generated(_packed("f", trajectory.entropies), marked),
    )


def trajectory_of(row: Sequence[object]) -> Trajectory:
    """Return the episode whose columns these are."""
    values: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    mask = bytes(values["action_mask"])
    return Trajectory(
        task_id=str(values["task_id"]),
        env_id=str(values["env_id"]),
        id=str(values["id"]),
        group_id=str(values["group_id"]),
        seed=int(values["seed"]),
        goal=str(values["goal"]),
        turns=_turns(json.loads(values["turns"])),
        token_ids=_numbers("i", values["token_ids"]),
        action_mask=list(mask),
        logprobs=_of_all(values["logprobs"], mask),
        entropies=_of_all(values["entropies"], mask),
        final_observation=str(values["final_observation"]),
        success=bool(values["success"]),
        # SQLite keeps what is not a number as nothing.
        score=math.nan if values["score"] is None else float(values["score"]),
        terminated=bool(values["terminated"]),
        truncated=bool(values["truncated"]),
        error=None if values["error"] is None else str(values["error"]),
        parent_id=None if values["parent_id"] is None else str(values["parent_id"]),
        branch_turn=None if values["branch_turn"] is None else int(values["branch_turn"]),
        branch_offset=None if values["branch_offset"] is None else int(values["branch_offset"]),
        metadata=json.loads(values["metadata"]),
    )


def _turns(stored: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]]) -> list[Turn]:
    """Return turns of the values by field; rows of earlier versions have the fields by turn."""
    if isinstance(stored, Mapping):
        return [Turn(**dict(zip(stored, values, strict=True))) for values in zip(*stored.values(), strict=True)]
    return [Turn(**turn) for turn in stored]


def _generated(packed: bytes, marked: NDArray[np.bool_]) -> bytes:
    """Return what is kept of float32 numbers (T,): those of the marked tokens (T,) if all others are 0 to the bit."""
    numbers = np.frombuffer(packed, np.uint32)
    if len(numbers) != len(marked):
        return packed
    kept = numbers[marked]
    return kept.tobytes() if np.count_nonzero(kept) == np.count_nonzero(numbers) else packed


def _of_all(kept: bytes, mask: bytes) -> list[float]:
    """Return a number for each token of what `_generated` kept, or of all of them as they stand there."""
    numbers: list[float] = _numbers("f", kept)
    if len(numbers) != len(mask) - mask.count(0):
        return numbers
    each = iter(numbers)
    return [next(each) if marked else 0.0 for marked in mask]


def _packed(kind: str, numbers: Sequence[float]) -> bytes:
    # Twice as fast as by way of an array.
    return struct.pack(f"{len(numbers)}{kind}", *numbers)


def _numbers(kind: str, blob: bytes) -> list[Any]:
    numbers = array(kind)
    numbers.frombytes(blob)
    return numbers.tolist()
