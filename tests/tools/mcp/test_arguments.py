"""The cheap check of arguments against a server's schema, and what JSON can carry."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_gym.errors import ToolError
from agent_gym.tools.mcp.arguments import RemoteArguments, as_json, usable_schema
from agent_gym.tools.schema import InvalidArgumentsError

SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "share": {"type": ["number", "null"]},
        "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        "items": {"type": "array", "items": {"type": "string"}},
        "flag": {"type": "boolean"},
        "free": {},
        "elsewhere": {"$ref": "#/$defs/Thing"},
    },
    "required": ["text"],
}


def check(schema: dict[str, Any] = SCHEMA, **given: Any) -> dict[str, Any]:
    return RemoteArguments(usable_schema(schema)).check(given)


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("count", 3, 3),
        ("count", "3", 3),
        ("count", 3.0, 3.0),
        ("share", None, None),
        ("share", "0.5", 0.5),
        ("share", 1, 1),
        ("either", "5", "5"),
        ("either", 5, 5),
        ("items", '["a"]', ["a"]),
        ("flag", "true", True),
        ("free", {"anything": 1}, {"anything": 1}),
        ("elsewhere", [1], [1]),
    ],
)
def test_a_value_of_the_right_kind_is_kept_and_a_text_is_read(name: str, value: Any, kept: Any) -> None:
    assert check(text="a", **{name: value}) == {"text": "a", name: kept}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, "text: this argument is missing"),
        ({"text": 5}, "text: should be string, not integer"),
        ({"text": "a", "count": True}, "count: should be integer, not boolean"),
        ({"text": "a", "count": "1.5"}, "count: should be integer, not string"),
        ({"text": "a", "count": float("inf")}, "count: should be integer, not number"),
        ({"text": "a", "share": "NaN"}, "share: should be null or number, not string"),
        ({"text": "a", "items": "[" * 100_000}, "items: should be array, not string"),
        ({"text": "a", "either": [1]}, "either: should be integer or string, not array"),
        ({"text": "a", "cuont": 1}, "unknown argument 'cuont': did you mean 'count'"),
    ],
)
def test_a_value_of_the_wrong_kind_is_told(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidArgumentsError, match=problem):
        check(**given)


def test_more_arguments_are_let_through_where_the_server_takes_them() -> None:
    assert check({"properties": {"a": {}}, "additionalProperties": True}, b=1) == {"b": 1}
    assert check({}, b=1) == {"b": 1}
    with pytest.raises(InvalidArgumentsError):
        check({"additionalProperties": False}, b=1)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"properties": None},
        {"properties": [1]},
        {"properties": {"a": True}, "required": "a"},
        {"required": [1, None]},
    ],
)
def test_an_odd_schema_becomes_one_that_can_be_read(schema: dict[str, Any]) -> None:
    usable = usable_schema(schema)
    assert usable["type"] == "object"
    assert all(isinstance(each, dict) for each in usable["properties"].values())
    assert all(isinstance(name, str) for name in usable["required"])


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(), st.recursive(st.none() | st.text(st.characters()), st.lists)))
def test_whatever_a_model_writes_becomes_text_that_can_be_sent(arguments: dict[str, Any]) -> None:
    carried = as_json(arguments)
    str(carried).encode()
    if "\ud800" not in str(arguments):
        assert as_json(carried) == carried


def test_half_a_character_becomes_a_question_mark() -> None:
    assert as_json({"a": ["x\ud83d"]}) == {"a": ["x?"]}


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}])
def test_what_json_has_no_word_for_is_refused(value: Any) -> None:
    with pytest.raises(ToolError, match="cannot be written as JSON"):
        as_json({"a": value})
