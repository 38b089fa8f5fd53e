"""Values as JSON and back; what is not plain data does not get through."""

import math
from collections import Counter, OrderedDict, defaultdict, namedtuple
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_gym.envs.code.inside.plain import NotPlainError, dump, load

SIMPLE = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
HASHABLE = st.recursive(SIMPLE, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(HASHABLE, inner, max_size=3) | st.tuples(inner),
    max_leaves=10,
)


@given(VALUES)
def test_plain_data_comes_back_as_it_was(value: Any) -> None:
    back = load(dump(value))
    assert back == value and type(back) is type(value)


class Liar:
    """Equals everything."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class Number(int):
    """A number that equals everything."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class Many(list):  # type: ignore[type-arg]
    """A list that raises when it is read."""

    def __iter__(self) -> Any:
        raise OSError("no")


Point = namedtuple("Point", "x y")
Colour = IntEnum("Colour", "RED")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Counter("aab"), {"a": 2, "b": 1}),
        (defaultdict(list, {1: [2]}), {1: [2]}),
        (OrderedDict(a=1), {"a": 1}),
        (Point(1, 2), (1, 2)),
        (Colour.RED, 1),
        (Number(3), 3),
        (bytearray(b"x"), b"x"),
        (math.inf, math.inf),
        (1 + 2j, 1 + 2j),
        ({1, (2, 3)}, {1, (2, 3)}),
    ],
)
def test_what_is_made_of_plain_data_becomes_that(value: Any, plain: Any) -> None:
    back = load(dump(value))
    assert back == plain and not isinstance(back, Number | Counter | defaultdict)


def test_not_a_number_stays_so() -> None:
    assert math.isnan(load(dump(math.nan)))


@pytest.mark.parametrize(
    "value",
    [Liar(), object(), print, iter([1]), {"a": Liar()}, Many([1]), 10**5000, type],
    ids=lambda value: type(value).__name__,
)
def test_anything_else_does_not_get_through(value: Any) -> None:
    with pytest.raises(NotPlainError):
        dump(value)


def test_a_value_without_end_does_not_get_through() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(NotPlainError):
        dump(endless)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nonsense",
        "{}",
        '{"tuple": [], "set": []}',
        '{"object": 1}',
        '{"set": [[1]]}',
        '{"dict": [[1]]}',
        '{"dict": [[[1], 2]]}',
        '{"bytes": "xy"}',
        '{"bytes": 3}',
        '{"float": "x"}',
        '{"complex": [1, 2, 3]}',
        '{"tuple": 1}',
        "[" * 100_000,
        "9" * 5000,
    ],
    ids=lambda line: line[:20],
)
def test_lines_that_nobody_has_dumped_are_refused(line: str) -> None:
    with pytest.raises(NotPlainError):
        load(line)
