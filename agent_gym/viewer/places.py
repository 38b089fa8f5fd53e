"""Where things lie on this machine is not for those who are sent a report."""

import re
from typing import Any

_DIRECTORIES = re.compile(r"(?<![\w/.~-])/(?:[^/:'\",\n]+/)+")
"""The folders of an absolute path, also within "scripted:/home/me/a.py:name"; addresses (http://...) have none."""

_NAMED = frozenset(("config", "model", "suite", "suites", "env", "env_id", "run", "graded_by"))
"""Values that may be paths. What an episode says is left as it is."""
_SAID = frozenset(("system_prompt", "tokens", "values"))


def without_places(value: Any, *, named: bool = False) -> Any:
    """Return an answer of the API in which absolute paths are their last part.

    Args:
        value: The answer, or a part of it.
        named: Whether it stands under a name that may hold paths.
    """
    if isinstance(value, dict):
        return {
            name: inner if name in _SAID else without_places(inner, named=named or name in _NAMED)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [without_places(inner, named=named) for inner in value]
    return shortened(value) if named and isinstance(value, str) else value


def shortened(text: str) -> str:
    """Return a text without the folders of the absolute paths in it."""
    return _DIRECTORIES.sub("", text)
