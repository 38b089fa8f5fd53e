"""An episode as plain values that JSON and tables can hold, and back."""

import json
import math
from dataclasses import fields
from typing import Any, Final

from agent_gym.errors import DataError
from agent_gym.evaluation.exchange.conversations import retold, told
from agent_gym.evaluation.exchange.reading import Stored
from agent_gym.trajectory import Trajectory, Turn

OFFSETS: Final = ("start", "end", "context_start")
"""Fields of a turn that point into the token ids."""
TOKENS: Final = {"token_ids": int, "action_mask": int, "logprobs": float, "entropies": float}
"""Fields of an episode with one entry a token."""
TURN_FIELDS: Final = tuple(field.name for field in fields(Turn))
EPISODE_FIELDS: Final = tuple(
    field.name for field in fields(Trajectory) if field.name not in TOKENS and field.name not in ("turns", "metadata")
)
_TYPES: Final = {str: str, int: int, float: (int, float), bool: bool}

Message = dict[str, str]


def as_record(stored: Stored, *, tokens: bool) -> dict[str, Any]:
    """Return everything about an episode.

    Args:
        stored: The episode.
        tokens: With the token ids, the action mask, log-probabilities, entropies and signals, and with the offsets of
            the turns in them.
    """
    trajectory = stored.trajectory
    names = [name for name in TURN_FIELDS if tokens or name not in OFFSETS]
    record: dict[str, Any] = {name: getattr(trajectory, name) for name in EPISODE_FIELDS}
    record |= {"reward": trajectory.reward, "step": stored.step, "phase": stored.phase, "model": stored.model}
    record["metadata"] = trajectory.metadata
    record["turns"] = [{name: getattr(turn, name) for name in names} for turn in trajectory.turns]
    if tokens:
        record |= {name: getattr(trajectory, name) for name in TOKENS}
        record["signals"] = stored.signals
    return record


def as_conversation(stored: Stored, *, system_prompt: str) -> dict[str, Any]:
    """Return an episode as a chat, as trainers of language models read it, and what it was worth."""
    trajectory = stored.trajectory
    return {
        "messages": messages_of(trajectory, system_prompt),
        "id": trajectory.id,
        "task_id": trajectory.task_id,
        "env_id": trajectory.env_id,
        "goal": trajectory.goal,
        "success": trajectory.success,
        "score": trajectory.score,
        "reward": trajectory.reward,
        "error": trajectory.error,
        "step": stored.step,
        "phase": stored.phase,
        "model": stored.model,
        "metadata": trajectory.metadata,
    }


def messages_of(trajectory: Trajectory, system_prompt: str) -> list[Message]:
    """Return the chat: what the environment said is the user's, what the model generated the assistant's.

    It ends with the last answer. Where each turn had a prompt of its own, the observations stand here alone.
    """
    messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
    for turn in trajectory.turns:
        messages.append({"role": "user", "content": turn.observation})
        messages.append({"role": "assistant", "content": turn.text})
    return messages


def from_record(record: dict[str, Any]) -> Stored:
    """Return the episode of a record of `as_record` or `as_conversation`.

    One without tokens gets the bytes of its text as tokens, so that it can be looked at.

    Raises:
        DataError: It is no such record.
    """
    stored = restored(record)
    trajectory = stored.trajectory
    if "turns" in record:
        trajectory.turns = [_turn(values) for values in _typed("turns", record["turns"], list)]
    elif "messages" in record:
        chat = _typed("messages", record["messages"], list)
        trajectory.turns, _ = retold([_typed("messages", each, dict) for each in chat], {})
        if trajectory.turns:
            # The environment's reward is told for the episode alone.
            trajectory.turns[-1].reward = _typed("reward", record.get("reward") or 0.0, float)
    else:
        raise DataError("it has neither 'turns' nor 'messages'")
    if "token_ids" in record:
        _take_tokens(trajectory, record)
    else:
        told(trajectory)
    stored.signals.update({name: list(map(_number, row)) for name, row in (record.get("signals") or {}).items()})
    return stored


def restored(record: dict[str, Any]) -> Stored:
    """Return an episode with what a record says of it as a whole, without turns and tokens.

    Raises:
        DataError: A value has another type than it should.
    """
    trajectory = Trajectory(task_id="")
    for name in EPISODE_FIELDS:
        if record.get(name) is not None:
            setattr(trajectory, name, _typed(name, record[name], type(getattr(_EXAMPLE, name))))
    trajectory.metadata = _typed("metadata", record.get("metadata") or {}, dict)
    if not all(isinstance(part, str) for pair in trajectory.metadata.items() for part in pair):
        raise DataError("what stands under 'metadata' must be texts by name")
    step, phase = _typed("step", record.get("step", 0), int), _typed("phase", record.get("phase", "eval"), str)
    return Stored(trajectory, step, phase, model=_typed("model", record.get("model") or "", str))


def _number(value: Any) -> float:
    """Read a number; null stands for one that is not finite."""
    return math.nan if value is None else float(value)


def _take_tokens(trajectory: Trajectory, record: dict[str, Any]) -> None:
    for name, kind in TOKENS.items():
        row = list(map(_number if kind is float else kind, _typed(name, record.get(name), list)))
        setattr(trajectory, name, row)
    count = len(trajectory.token_ids)
    if any(len(getattr(trajectory, name)) != count for name in TOKENS):
        raise DataError("its token ids, mask, log-probabilities and entropies differ in number")
    if any(not 0 <= turn.context_start <= turn.start <= turn.end <= count for turn in trajectory.turns):
        raise DataError("a turn points beyond the token ids")


def _turn(values: Any) -> Turn:
    turn = Turn(observation="", text="", action="", start=0, end=0)
    for name in TURN_FIELDS:
        given = _typed("turns", values, dict).get(name)
        if given is not None:
            setattr(turn, name, _typed(name, given, type(getattr(turn, name))))
    return turn


def _typed(name: str, value: Any, kind: type) -> Any:
    """Return a value that has the type, or a sentence that says which has not."""
    expected = _TYPES.get(kind, kind)
    if not isinstance(value, expected) or (isinstance(value, bool) and kind is not bool):  # type: ignore[arg-type]
        raise DataError(f"what stands under {name!r} must be of type {kind.__name__}, not {type(value).__name__}")
    return kind(value)


_EXAMPLE = Trajectory(task_id="", error="", parent_id="", branch_turn=0, branch_offset=0)
"""Tells the types of the fields, those that may be None, too."""


def encoded(value: Any) -> bytes:
    """Return a value as strict JSON in UTF-8: what is not a finite number is null, a lone surrogate a question mark."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value
