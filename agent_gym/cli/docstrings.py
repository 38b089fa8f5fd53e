"""What docstrings say of arguments, for the tables of options."""

import inspect
import re
from collections.abc import Callable
from typing import Any


def said_of_arguments(build: Callable[..., Any]) -> dict[str, str]:
    """Return what the sections "Args" say of each argument; of a class, what its bases say counts as well."""
    told: dict[str, str] = {}
    for source in reversed(inspect.getmro(build)) if isinstance(build, type) else [build]:
        told |= _arguments(inspect.getdoc(source) or "")
    return told


def _arguments(docstring: str) -> dict[str, str]:
    _, _, rest = docstring.partition("Args:\n")
    told: dict[str, str] = {}
    last = ""
    for line in rest.splitlines():
        if not line.startswith(" "):
            break
        entry = re.match(r" {4}(\*{0,2}\w+): (.*)", line)
        if entry:
            last = entry[1]
            told[last] = entry[2]
        elif last:
            told[last] += " " + line.strip()
    return told
