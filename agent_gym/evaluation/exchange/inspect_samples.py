"""A sample of inspect_ai as an episode."""

import json
from typing import Any, Final

from agent_gym.errors import DataError
from agent_gym.evaluation.exchange.checking import checked
from agent_gym.evaluation.exchange.conversations import retold, told
from agent_gym.evaluation.exchange.inspect_log import OURS
from agent_gym.evaluation.exchange.inspect_read import Header, Sample, as_number, chosen_score
from agent_gym.evaluation.exchange.reading import Stored
from agent_gym.evaluation.exchange.records import restored
from agent_gym.trajectory import Trajectory, Turn

_LONGEST_GOAL: Final = 300
_LONGEST_NOTE: Final = 1000
_LIMITS: Final = {"token": "tokens", "turn": "turns", "message": "turns", "time": "seconds", "working": "seconds"}


def episode(sample: Sample, header: Header, scorer: str | None) -> Stored:
    """Return the episode of a sample; its text becomes tokens a byte each, its epochs attempts.

    Args:
        sample: As it stands in the log.
        header: The log's header.
        scorer: Whose score counts; a value of 1 or more is success. None takes what the sample itself says where the
            log is one of ours, else the headline's scorer.

    Raises:
        DataError: It is no sample, or a run cannot hold its numbers.
    """
    try:
        return checked(_episode(sample, header, scorer))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"a sample of the log is not what it should be ({type(error).__name__}: {error})") from error


def _episode(sample: Sample, header: Header, scorer: str | None) -> Stored:
    metadata = sample.get("metadata") or {}
    ours = metadata.get(OURS) if header.is_ours else None
    # What stood before the first observation is no part of it; the run as a whole keeps it.
    chat = [message for message in _chat(sample) if ours is None or message.get("role") != "system"]
    turns, last = retold(chat, dict(sample.get("attachments") or {}))
    if isinstance(ours, dict):
        stored = restored(ours)
    else:
        stored = Stored(_foreign(sample, header, metadata), 0, "eval")
        _count(turns, sample)
    trajectory = stored.trajectory
    trajectory.task_id, trajectory.turns, trajectory.final_observation = str(sample["id"]), turns, last
    if not trajectory.goal:
        trajectory.goal = str(metadata.get("goal") or sample.get("description") or _first_words(sample, turns))
    error = sample.get("error")
    trajectory.error = str(error.get("message")) if isinstance(error, dict) else None
    if trajectory.error is None and (scorer is not None or not isinstance(ours, dict)):
        _grade(trajectory, sample, header, scorer)
    told(trajectory)
    return stored


def _chat(sample: Sample) -> list[dict[str, Any]]:
    """Return the messages; a sample that broke off before the first has its input."""
    given = sample.get("messages") or sample.get("input") or []
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
    return [message for message in messages if isinstance(message, dict)]


def _foreign(sample: Sample, header: Header, about: dict[str, Any]) -> Trajectory:
    """Return what a log of others says of an episode as a whole."""
    attempt, limit = int(sample.get("epoch") or 1) - 1, sample.get("limit")
    trajectory = Trajectory(str(sample["id"]), env_id=header.task)
    trajectory.truncated = isinstance(limit, dict)
    trajectory.terminated = not trajectory.truncated and not sample.get("error")
    # Their names mean what they like: an "answer" is the right one in some logs.
    notes = {f"about.{name}": _note(value) for name, value in about.items() if isinstance(value, str | int | float)}
    trajectory.metadata = notes | {"suite": header.task, "attempt": str(attempt), "model": header.model}
    if isinstance(limit, dict):
        trajectory.metadata["truncated_by"] = _LIMITS.get(str(limit.get("type")), str(limit.get("type")))
    if target := sample.get("target"):
        trajectory.metadata["target"] = _note(target)
    costs = [usage.get("total_cost") for usage in (sample.get("model_usage") or {}).values()]
    if known := [float(cost) for cost in costs if cost is not None]:
        trajectory.metadata["cost"] = repr(sum(known))
    if sample.get("scores"):
        values = {name: score.get("value") for name, score in sample["scores"].items()}
        trajectory.metadata["scores"] = _note(values)
    return trajectory


def _note(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text[:_LONGEST_NOTE]


def _first_words(sample: Sample, turns: list[Turn]) -> str:
    given = sample.get("input")
    text = given if isinstance(given, str) else turns[0].observation if turns else ""
    return text[:_LONGEST_GOAL]


def _grade(trajectory: Trajectory, sample: Sample, header: Header, scorer: str | None) -> None:
    """Take success, score and reward from a scorer; an episode that it says nothing of has failed, and is not wrong."""
    name = scorer or next(iter(header.scorers or sample.get("scores") or ()), None)
    score = chosen_score(sample, name) if name is not None else None
    value = as_number(score.get("value")) if score else None
    if value is None:
        trajectory.error = f"It has no score of {name!r} that is a number." if name else "It has not been scored."
        return
    trajectory.success, trajectory.score = value >= 1, value
    if score and isinstance(score.get("answer"), str):
        trajectory.metadata["answer"] = score["answer"]
    if trajectory.turns and not any(turn.reward for turn in trajectory.turns):
        trajectory.turns[-1].reward = value


def _count(turns: list[Turn], sample: Sample) -> None:
    """Write tokens and seconds to the turns: as the events of the model say, else the sums, shared among all."""
    if not turns:
        return
    answers = [message for message in _chat(sample) if message.get("role") == "assistant"]
    places = {message.get("id"): turn for message, turn in zip(answers, turns, strict=True) if message.get("id")}
    counted = False
    for event in sample.get("events") or []:
        output = event.get("output") if isinstance(event, dict) and event.get("event") == "model" else None
        choices = (output or {}).get("choices") or []
        turn = places.get(choices[0]["message"].get("id")) if choices else None
        usage = (output or {}).get("usage")
        if turn is not None and isinstance(usage, dict):
            turn.prompt_tokens, turn.generated_tokens = _tokens(usage)
            turn.engine_seconds = float(event.get("working_time") or 0.0)
            counted = True
    if not counted:
        usages = [_tokens(usage) for usage in (sample.get("model_usage") or {}).values()]
        read, generated = (_shares(sum(usage[place] for usage in usages), len(turns)) for place in (0, 1))
        for each, each_read, each_generated in zip(turns, read, generated, strict=True):
            each.prompt_tokens, each.generated_tokens = each_read, each_generated
            each.engine_seconds = float(sample.get("working_time") or 0.0) / len(turns)


def _shares(total: int, count: int) -> list[int]:
    """Divide a number into as many that differ by 1 at most."""
    return [total // count + (place < total % count) for place in range(count)]


def _tokens(usage: dict[str, Any]) -> tuple[int, int]:
    """Return the tokens that were read, those from a cache, too, and those that were generated."""
    kinds = ("input_tokens", "input_tokens_cache_read", "input_tokens_cache_write")
    return sum(int(usage.get(kind) or 0) for kind in kinds), int(usage.get("output_tokens") or 0)
