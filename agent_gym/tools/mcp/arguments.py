"""A cheap check of arguments against a server's JSON schema; the server has the last word."""

import json
from collections.abc import Mapping
from typing import Any

from agent_gym.errors import ToolError
from agent_gym.tools.schema import InvalidArgumentsError, LooseArguments

_KINDS: dict[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
    type(None): "null",
}


def usable_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema of arguments in which the parts that we read are what they should be.

    A server may write `true` for "anything" in the place of a schema.
    """
    properties = schema.get("properties")
    required = schema.get("required")
    return {
        **schema,
        "type": "object",
        "properties": {
            str(name): each if isinstance(each, dict) else {}
            for name, each in (properties.items() if isinstance(properties, dict) else ())
        },
        "required": [str(name) for name in required] if isinstance(required, list) else [],
    }


class RemoteArguments(LooseArguments):
    """Arguments of a tool on a server: their names and the kinds of their values are checked.

    Args:
        schema: What `usable_schema` returned.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        super().__init__(schema)
        self._open = self._open or bool(schema.get("additionalProperties") or schema.get("patternProperties"))
        self._kinds = {name: _kinds(each) for name, each in schema["properties"].items()}

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments; a text becomes what it says where the tool takes no text ("5" for a number, say).

        Raises:
            InvalidArgumentsError: One is missing, is not known, or is of the wrong kind.
        """
        arguments = super().check(given)
        problems = []
        for name, value in arguments.items():
            kinds = self._kinds.get(name)
            if kinds is None or _is_one_of(value, kinds):
                continue
            read = _read(value)
            if read is not None and _is_one_of(read, kinds):
                arguments[name] = read
            else:
                problems.append(f"{name}: should be {' or '.join(sorted(kinds))}, not {_kind(value)}")
        if problems:
            raise InvalidArgumentsError("; ".join(problems))
        return arguments


def as_json(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as JSON can carry them; half a surrogate pair, which a model may write, becomes "?".

    Raises:
        ToolError: Something in them is nothing that JSON has a word for.
    """
    try:
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ToolError(f"The arguments cannot be written as JSON: {error}.") from error
    carried: dict[str, Any] = json.loads(text.encode("utf-8", "replace"))
    return carried


def _kinds(schema: Any) -> frozenset[str] | None:
    """Return the kinds of value that a schema allows, None where it does not say."""
    if not isinstance(schema, dict):
        return None
    kind = schema.get("type")
    if isinstance(kind, str):
        return frozenset([kind])
    if isinstance(kind, list):
        return frozenset(map(str, kind))
    choices = schema.get("anyOf") or schema.get("oneOf")
    if not isinstance(choices, list):
        return None
    several = [_kinds(choice) for choice in choices]
    return frozenset().union(*(each for each in several if each is not None)) if None not in several else None


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def _is_one_of(value: Any, kinds: frozenset[str]) -> bool:
    kind = _kind(value)
    return (
        kind in kinds
        or (kind == "integer" and "number" in kinds)
        or (kind == "number" and "integer" in kinds and value.is_integer())
    )


def _read(value: Any) -> Any:
    """Return what a text says as JSON, None where it says nothing."""
    if not isinstance(value, str):
        return None
    try:
        return json.loads(value, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        return None
