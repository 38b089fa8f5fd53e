"""Published hyper-parameters: one YAML file for each method and environment, a partial `TrainConfig`."""

from importlib.resources import files
from typing import Any

import yaml

from agent_gym.errors import UnknownIdError
from agent_gym.trainers.presets import BASES, METHODS, parse

_FOLDER = files("agent_gym.trainers") / "recipes"


def recipe_names(algorithm: str) -> list[str]:
    """Return the names of a piece's recipes."""
    folder = _FOLDER / algorithm
    if not folder.is_dir():
        return []
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def recipe(algorithm: str, name: str) -> dict[str, Any]:
    """Return the configuration that a paper has used.

    Args:
        algorithm: A name as for `make_algorithm`; of several pieces, the last one that has the recipe decides.
        name: The recipe, for example "alfworld".

    Raises:
        UnknownIdError: There is none of that name; the message names those that there are.
    """
    pieces = [each.name for each in parse(algorithm)]
    for piece in reversed(pieces):
        if name in recipe_names(piece):
            text = (_FOLDER / piece / f"{name}.yaml").read_text(encoding="utf-8")
            values: dict[str, Any] = yaml.safe_load(text)
            return values
    known = [each for piece in pieces for each in recipe_names(piece)]
    raise UnknownIdError.of(f"recipe of {algorithm!r}", name, known or ["none"])


def all_recipes() -> list[tuple[str, str]]:
    """Return (piece, recipe) for every recipe."""
    return [(piece, name) for piece in [*METHODS, *BASES] for name in recipe_names(piece)]
