"""Schemas and checks of arguments: types, docstrings, explanations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from agent_gym.errors import ToolError
from agent_gym.tools.schema import Arguments, InvalidArgumentsError, LooseArguments, read_docstring, text_parameter


@dataclass
class Place:
    city: str
    zip: int = 0


def book(
    place: Place,
    nights: Annotated[int, Field(ge=1, le=30)],
    kind: Literal["single", "double"] = "single",
    schema: list[str] | None = None,
    limit: Any = object,
) -> None: ...


@pytest.fixture
def arguments() -> Arguments:
    return Arguments(book, "book", {"nights": "How long."})


def test_all_that_pydantic_knows_can_be_a_type(arguments: Arguments) -> None:
    properties = arguments.schema["properties"]
    assert properties["nights"] == {"type": "integer", "minimum": 1, "maximum": 30, "description": "How long."}
    assert properties["kind"]["enum"] == ["single", "double"]
    assert properties["schema"]["default"] is None
    assert "default" not in properties["limit"]
    assert arguments.schema["required"] == ["place", "nights"]


def test_arguments_get_the_types_of_the_parameters(arguments: Arguments) -> None:
    checked = arguments.check({"place": {"city": "Rome", "zip": "12"}, "nights": "3"})
    assert checked == {"place": Place("Rome", 12), "nights": 3}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "place: this argument is missing; nights: this argument is missing"),
        ({"nights": 99}, "nights: Input should be less than or equal to 30"),
        ({"place": {"zip": 1}}, "place.city: Field required"),
        ({"nihgts": 3}, "unknown argument 'nihgts': did you mean 'nights'? Known: kind, limit, nights, place, schema"),
        ({"kind": "triple"}, "kind: Input should be 'single' or 'double'"),
        ({"x" * 10_000: 1}, "unknown argument '" + "x" * 80 + "'"),
        ({f"x{i}": i for i in range(20)}, "and 17 more"),
    ],
    ids=["missing", "bound", "inside", "unknown", "choice", "long", "many"],
)
def test_what_does_not_fit_is_explained(arguments: Arguments, given: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidArgumentsError) as caught:
        arguments.check(given)
    assert told in str(caught.value) and "http" not in str(caught.value)
    assert len(str(caught.value)) < 1_500


def untyped(a, b: int) -> None: ...  # type: ignore[no-untyped-def]
def starred(*words: str) -> None: ...
def positional(a: int, /) -> None: ...
def strange(a: type[Place.__eq__]) -> None: ...  # type: ignore[valid-type]
def callback(a: Callable[[], int]) -> None: ...
def unknown(a: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (untyped, "The parameter 'a' of the tool 'it' has no type: write a: str"),
        (starred, r"'\*words: str' of the tool 'it' cannot be given by name"),
        (positional, "cannot be given by name"),
        (callback, "has a parameter that JSON cannot describe"),
        (unknown, "The types of the tool 'it' cannot be looked up: name 'Nowhere' is not defined"),
    ],
)
def test_a_function_that_no_schema_fits_is_refused(function: Any, message: str) -> None:
    with pytest.raises(ToolError, match=message):
        Arguments(function, "it", {})


def test_a_google_docstring_is_taken_apart() -> None:
    told = read_docstring(
        """Find things.

        Everywhere: even here.

        Args:
            query (str): What to look for: words,
                or a sentence.
            **more: Others.

        Returns:
            limit: not an argument.
        """
    )
    assert told.description == "Find things.\n\nEverywhere: even here."
    assert told.arguments == {"query": "What to look for: words, or a sentence.", "more": "Others."}
    assert read_docstring(None).description == ""


@given(st.text())
def test_any_text_can_be_a_docstring(text: str) -> None:
    read_docstring(text)


def one(text: str, limit: int = 3) -> None: ...
def optional(limit: int = 3, text: str = "") -> None: ...
def numbers(limit: int = 3) -> None: ...
def two(a: str, b: str) -> None: ...
def none() -> None: ...


@pytest.mark.parametrize(
    ("function", "name"), [(one, "text"), (optional, "text"), (numbers, "limit"), (two, None), (none, None)]
)
def test_a_bare_text_goes_to_the_parameter_that_needs_it(function: Any, name: str | None) -> None:
    assert text_parameter(Arguments(function, "it", {}).schema) == name


def test_loose_arguments_are_checked_by_name_alone() -> None:
    loose = LooseArguments({"properties": {"a": {"type": "string"}}, "required": ["a"]})
    assert loose.check({"a": 3}) == {"a": 3}
    with pytest.raises(InvalidArgumentsError, match="a: this argument is missing; unknown argument 'b'"):
        loose.check({"b": 1})
    assert LooseArguments({"type": "object"}).check({"anything": 1}) == {"anything": 1}
