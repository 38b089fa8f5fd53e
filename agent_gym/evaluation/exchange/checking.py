"""Whether a run can hold the numbers of an episode that another program has written."""

from dataclasses import replace
from typing import Any, Final

from agent_gym.errors import DataError
from agent_gym.evaluation.exchange.reading import Stored
from agent_gym.rollout.spending import COST_BEFORE, TOKENS_BEFORE
from agent_gym.store.texts import with_storable_texts

_BITS: Final = 63
"""An integer of SQLite has as many, and a sign."""
_COUNTED: Final = 40
"""Bits of a number of tokens or calls, which are summed over the turns."""
_TOKEN: Final = 31
_COUNTS: Final = ("prompt_tokens", "generated_tokens", "tool_calls")
_INTEGERS: Final = ("seed", "branch_turn", "branch_offset")
_NOTES: Final = {"attempt": int, "env_seed": int, "cost": float, TOKENS_BEFORE: int, COST_BEFORE: float}
"""What stands in the metadata and is a number."""


def checked(stored: Stored) -> Stored:
    """Return the episode, with halves of surrogate pairs spelled out: an id, say, must be found again.

    Raises:
        DataError: A number is none, or too large for a run; it names where it stands.
    """
    trajectory = stored.trajectory
    _within("step", stored.step, _BITS)
    for name in _INTEGERS:
        _within(name, getattr(trajectory, name) or 0, _BITS)
    for turn in trajectory.turns:
        _within("engine_version", turn.engine_version, _BITS)
        for name in _COUNTS:
            _within(name, getattr(turn, name), _COUNTED)
    if trajectory.token_ids:
        _within("token_ids", max(trajectory.token_ids, key=abs), _TOKEN)
        if not set(trajectory.action_mask) <= {0, 1}:
            raise DataError("what stands under 'action_mask' must be 0 or 1")
    for name, kind in _NOTES.items():
        if name in trajectory.metadata:
            _within(name, _read(name, trajectory.metadata[name], kind), _BITS)
    return replace(stored, trajectory=with_storable_texts(trajectory))


def _read(name: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise DataError(f"{name!r} must be a number, and says {text[:40]!r}") from None


def _within(name: str, value: float, bits: int) -> None:
    if isinstance(value, int) and not -(2**bits) <= value < 2**bits:
        raise DataError(f"what stands under {name!r} has more than {bits} bits and a sign")
