"""`agent-gym keys`: what a configuration may say."""

import json
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agent_gym.config import EvalConfig, TrainConfig
from agent_gym.errors import ConfigError, suggestion
from agent_gym.sections import Section


def list_keys(part: str | None, *, evaluation: bool) -> None:
    """Print each key with its default and its meaning.

    Args:
        part: Only the keys of this section, or this one.
        evaluation: Those of `agent-gym eval`, and not of `agent-gym train`.

    Raises:
        ConfigError: There is no such section.
    """
    found = list(_keys(EvalConfig if evaluation else TrainConfig))
    rows = [row for row in found if part is None or f"{row[0]}.".startswith(f"{part}.")]
    if not rows:
        raise ConfigError(
            f"No key begins with {part!r}{suggestion(str(part), {row[0].split('.')[0] for row in found})}"
        )
    table = Table("key", "default", "what it says")
    table.columns[0].style, table.columns[0].no_wrap = "bold", True
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console()
    console.print(table)
    console.print(
        "Set in a file or by --set KEY=VALUE. Keys of env.options: agent-gym envs ID; of algorithm.options: agent-gym "
        "algorithms NAME.",
        highlight=False,
    )


def _keys(section: type[Section], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    for name, field in section.model_fields.items():
        inner = _section(field.annotation)
        default = field.get_default(call_default_factory=True)
        if inner is None or default is None:
            yield f"{prefix}{name}", _shown(default), _told(field)
        if inner is not None:
            yield from _keys(inner, f"{prefix}{name}.")


def _section(annotation: Any) -> type[Section] | None:
    """Return the section that a key holds, which may be optional."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


def _shown(default: Any) -> str:
    return default if default and isinstance(default, str) else json.dumps(default)


def _told(field: FieldInfo) -> str:
    """Return what stands below a key in its section, and what it may be if that is one of few words."""
    meaning = " ".join((field.description or "").split())
    if get_origin(field.annotation) is not Literal:
        return meaning
    return f"{meaning} One of {', '.join(get_args(field.annotation))}."
