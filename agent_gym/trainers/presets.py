"""Algorithms by name."""

import inspect
from collections.abc import Callable
from typing import Any

from agent_gym.errors import ConfigError, UnknownIdError, suggestion
from agent_gym.trainers.algorithm import Algorithm
from agent_gym.trainers.grpo import grpo

PRESETS: dict[str, Callable[..., Algorithm]] = {"grpo": grpo}


def make_algorithm(name: str, options: dict[str, Any] | None = None) -> Algorithm:
    """Make a preset.

    Raises:
        UnknownIdError: No such preset.
        ConfigError: The preset does not take one of the options, or not that value.
    """
    if name not in PRESETS:
        raise UnknownIdError.of("algorithm", name, PRESETS)
    preset = PRESETS[name]
    known = inspect.signature(preset).parameters
    for key in options or {}:
        if key not in known:
            raise ConfigError(f"Unknown option {key!r} of the algorithm {name!r}{suggestion(key, known)}")
    try:
        return preset(**(options or {}))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The algorithm {name!r} does not take these options: {error}.") from error
