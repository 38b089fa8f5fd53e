"""What a model reads of tools: their results, their errors, and what they are."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from agent_gym.sandbox.base import clean
from agent_gym.tools.base import Tool

_SHOWN_MESSAGE = 2_000
"""Longest message of an error that a model reads."""


def shown(value: Any, max_characters: int) -> str:
    """Return a value as a model reads it: a text as it is, anything else as JSON; without what a terminal would obey.

    Args:
        value: What a tool gave.
        max_characters: A longer text loses its middle; a sentence there tells how much is missing.
    """
    text = value if isinstance(value, str) else _as_json(value)
    missing = len(text) - max_characters
    if missing <= 0:
        return _cleaned(text)
    # The end is kept as well: there a program says how it failed.
    tail = max_characters // 4
    head = max_characters - tail
    return f"{_cleaned(text[:head])}\n[Cut here: {missing:,} more characters.]\n{_cleaned(text[len(text) - tail :])}"


def _cleaned(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return clean(text.encode("utf-8", "replace"))


def _as_json(value: Any) -> str:
    try:
        return to_json(value, serialize_unknown=True).decode()
    except (PydanticSerializationError, ValueError, RecursionError):
        # Broken characters, or a value that holds itself.
        return repr(value)


def message(error: BaseException) -> str:
    """Return the kind of an error and what it says."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - the error is somebody else's, and may break even here
        message = ""
    return f"{type(error).__name__}: {message[:_SHOWN_MESSAGE]}" if message else type(error).__name__


def described(tool: Tool) -> str:
    """Return one tool as text: its signature, what it does, and what its parameters mean."""
    properties: Mapping[str, Any] = tool.parameters.get("properties", {})
    required = tool.parameters.get("required", ())
    signature = ", ".join(
        f"{name}: {_type(each)}{'' if name in required else '?'}" for name, each in properties.items()
    )
    lines = [f"{tool.name}({signature}): {tool.description}"]
    lines += [f"  {name}: {each['description']}" for name, each in properties.items() if each.get("description")]
    return "\n".join(lines)


def _type(schema: Mapping[str, Any]) -> str:
    """Return a short word for a JSON schema."""
    if "enum" in schema:
        return " | ".join(json.dumps(choice, ensure_ascii=False) for choice in schema["enum"])
    if "anyOf" in schema:
        return " | ".join(_type(choice) for choice in schema["anyOf"])
    return str(schema.get("type", "any"))
