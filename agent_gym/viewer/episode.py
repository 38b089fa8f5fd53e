"""One episode as the page shows it: turns, the text of their tokens, and what was measured and trained on each."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent_gym.trajectory import Trajectory, Turn
from agent_gym.viewer.tokens import Piece, Texts, best

TOKENS = 20_000
"""Tokens that one answer holds, at most: a browser draws so many at once without a pause."""

CHARACTERS = 400_000
"""Characters of an observation or an answer that are shown."""

Signals = Mapping[str, Sequence[float]]


def signal_names(signals: Signals) -> list[str]:
    """Return what tokens can be coloured by."""
    return ["entropy", "log-probability", *sorted(signals)]


def turns_view(
    trajectory: Trajectory,
    signals: Signals,
    texts: Sequence[Texts],
    *,
    with_tokens: bool = True,
    first: int = 0,
    limit: int | None = None,
    budget: int = TOKENS,
) -> dict[str, Any]:
    """Return the prompt and the turns from `first` on, as far as the budget of tokens goes.

    Every token of the episode appears once: those before the first answer in `prompt`, those between two answers and
    of the answer itself in its turn, those after the last answer in `rest`.

    Args:
        trajectory: The episode.
        signals: Floats (T,) by name, see `TrajectoryStore.signals`.
        texts: What may explain the tokens.
        with_tokens: Whether tokens and their values are wanted.
        first: Index of the first turn.
        limit: Turns, at most.
        budget: Tokens, at most; a turn that is longer by itself is cut.
    """
    view = _Tokens(trajectory, signals, texts, budget if with_tokens else None)
    turns = trajectory.turns
    last = len(turns) if limit is None else min(len(turns), first + limit)
    prompt = []
    if turns and first == 0:
        # Of a prompt that would take it all half is left to what the model answered.
        prompt.append(view.part(0, turns[0].start, spare=min(turns[0].end - turns[0].start, budget // 2)))
    shown: list[dict[str, Any]] = []
    for index in range(first, last):
        begin = turns[index].start if index == 0 else turns[index - 1].end
        # The first turn is always shown, if only in part; otherwise asking for the next ones would never end.
        if shown and view.exceeded_by(turns[index].end - begin):
            break
        shown.append(_turn(trajectory, signals, index) | view.part(begin, turns[index].end))
    following = first + len(shown)
    done = following >= len(turns)
    return {
        "prompt": prompt,
        "turns": shown,
        "rest": [view.part(turns[-1].end if turns else 0, len(trajectory.token_ids))] if done else [],
        "turn_count": len(turns),
        "token_count": len(trajectory.token_ids),
        "next_turn": None if done else following,
        "cut": None if done else _cut(first, following, len(turns), view),
        "token_texts": view.texts.name,
    }


def _cut(first: int, following: int, count: int, view: "_Tokens") -> str:
    why = "" if view.budget is None else ": more tokens are not drawn at once"
    which = f"are turns {first + 1} to {following}" if following > first + 1 else f"is turn {following}"
    return f"Shown {which} of {count}{why}."


class _Tokens:
    """Hands out stretches of an episode's tokens until the budget is spent."""

    def __init__(self, trajectory: Trajectory, signals: Signals, texts: Sequence[Texts], budget: int | None) -> None:
        self.trajectory = trajectory
        self.budget = budget
        self.values = {"entropy": trajectory.entropies, "log-probability": trajectory.logprobs, **signals}
        probes = [turn for turn in trajectory.turns if turn.end > turn.start][:3]
        generated = [(trajectory.token_ids[turn.start : turn.end], turn.text) for turn in probes]
        self.texts = best(texts, generated)

    def exceeded_by(self, count: int) -> bool:
        return self.budget is not None and count > self.budget

    def part(self, begin: int, end: int, *, spare: int = 0) -> dict[str, Any]:
        """Return text and tokens of a stretch, and spend the budget, all but `spare` tokens of it."""
        ids = self.trajectory.token_ids
        if self.budget is None:
            return {"prompt_text": _short(self.texts.text(ids[begin:end]))}
        # Of a stretch that is too long the end is shown, where what the model generated stands.
        kept = max(begin, end - (self.budget - spare))
        self.budget -= end - kept
        mask = self.trajectory.action_mask
        return {
            "tokens": [
                _token(piece, ids[kept + place], kept + place, mask[kept + place])
                for place, piece in enumerate(self.texts.pieces(ids[kept:end]))
            ],
            "values": {
                name: [
                    _brief(value) if marked else None
                    for value, marked in zip(values[kept:end], mask[kept:end], strict=True)
                ]
                for name, values in self.values.items()
            },
            "tokens_left_out": kept - begin,
        }


def _token(piece: Piece, token: int, offset: int, marked: int) -> dict[str, Any]:
    """Return a token: text, id, offset, action mask; `j` where it is joined to the one before, `s` for a marker."""
    shown: dict[str, Any] = {"t": piece.text, "i": token, "o": offset, "m": marked}
    if piece.joined:
        shown["j"] = 1
    if piece.special:
        shown["s"] = 1
    return shown


def _turn(trajectory: Trajectory, signals: Signals, index: int) -> dict[str, Any]:
    turn = trajectory.turns[index]
    means = {name: mean(values, turn) for name, values in signals.items()}
    return {
        "index": index,
        "shared": index < (trajectory.branch_turn or 0),
        "observation": _short(turn.observation),
        "text": _short(turn.text),
        "action": _short(turn.action),
        "reward": turn.reward,
        "invalid": turn.invalid_action,
        "tool_calls": turn.tool_calls,
        "finish_reason": turn.finish_reason,
        "engine_version": turn.engine_version,
        "engine_seconds": turn.engine_seconds,
        "env_seconds": turn.env_seconds,
        "prompt_tokens": turn.prompt_tokens or turn.start - turn.context_start,
        "generated_tokens": turn.generated_tokens or turn.end - turn.start,
        "entropy": mean(trajectory.entropies, turn),
        "advantage": means.get("advantage"),
        "weight": means.get("weight"),
        "means": means,
    }


def outline(trajectory: Trajectory, signals: Signals) -> dict[str, Any]:
    """Return what every turn came to: means of what tokens can be coloured by, rewards, invalid actions."""
    turns = trajectory.turns
    values = {"entropy": trajectory.entropies, "log-probability": trajectory.logprobs, **signals}
    return {
        "means": {name: [mean(one, turn) for turn in turns] for name, one in values.items()},
        "rewards": [turn.reward for turn in turns],
        "invalid": [index for index, turn in enumerate(turns) if turn.invalid_action],
    }


def mean(values: Sequence[float], turn: Turn) -> float | None:
    """Return the mean over the tokens that a turn generated; None where there are none."""
    own = [value for value in values[turn.start : turn.end] if not math.isnan(value)]
    return _brief(math.fsum(own) / len(own)) if own else None


def _brief(value: float) -> float | None:
    """Return a number with as many digits as are looked at; None where it is not finite."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _short(text: str) -> str:
    left = len(text) - CHARACTERS
    return text if left <= 0 else f"{text[:CHARACTERS]}\n[{left:,} more characters are not shown]"


def branch_view(trajectory: Trajectory) -> dict[str, Any] | None:
    """Return where an episode left its parent, and why; None where it has none."""
    if trajectory.parent_id is None:
        return None
    told = trajectory.metadata
    return {
        "parent_id": trajectory.parent_id,
        "turn": trajectory.branch_turn,
        "offset": trajectory.branch_offset,
        "probability": _number(told.get("branch_probability")),
        "entropy": _number(told.get("branch_entropy")),
        "initial_entropy": _number(told.get("initial_entropy")),
    }


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else _brief(float(text))
    except ValueError:
        return None


def turn_list(trajectory: Trajectory, signals: Signals) -> Iterator[dict[str, Any]]:
    """Yield the turns in few words, for a group's tree."""
    for turn in trajectory.turns:
        yield {
            "action": turn.action[:300],
            "reward": turn.reward,
            "invalid": turn.invalid_action,
            "tool_calls": turn.tool_calls,
            "entropy": mean(trajectory.entropies, turn),
            "tokens": turn.generated_tokens or turn.end - turn.start,
            "seconds": turn.engine_seconds + turn.env_seconds,
            "advantage": mean(signals["advantage"], turn) if "advantage" in signals else None,
            "weight": mean(signals["weight"], turn) if "weight" in signals else None,
        }
