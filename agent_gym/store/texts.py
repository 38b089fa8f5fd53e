"""Texts as a file can hold them.

Servers, environments and imported files may say half a surrogate pair, which is a character in Python's texts and none
in UTF-8.
"""

from dataclasses import replace
from typing import Any

from agent_gym.trajectory import Trajectory, Turn

_OF_EPISODE = ("id", "group_id", "task_id", "env_id", "goal", "final_observation", "error", "parent_id")
_OF_TURN = ("observation", "text", "action", "finish_reason")


def storable(text: str) -> str:
    r"""Return the text with halves of surrogate pairs spelled out, as `\ud83d`: different texts stay different."""
    return text.encode("utf-8", "backslashreplace").decode()


def with_storable_texts(trajectory: Trajectory) -> Trajectory:
    """Return the episode itself where all its texts can be stored, which costs little; else a copy that can be."""
    try:
        "\n".join(_texts(trajectory)).encode()
    except UnicodeEncodeError:
        metadata = {storable(name): storable(value) for name, value in trajectory.metadata.items()}
        turns = [replace(turn, **_storable(turn, _OF_TURN)) for turn in trajectory.turns]
        return replace(trajectory, metadata=metadata, turns=turns, **_storable(trajectory, _OF_EPISODE))
    return trajectory


def _texts(trajectory: Trajectory) -> list[str]:
    texts = [getattr(trajectory, name) or "" for name in _OF_EPISODE]
    for turn in trajectory.turns:
        texts += (turn.observation, turn.text, turn.action, turn.finish_reason)
    return [*texts, *trajectory.metadata, *trajectory.metadata.values()]


def _storable(record: Trajectory | Turn, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: storable(text) for name in names if (text := getattr(record, name)) is not None}
