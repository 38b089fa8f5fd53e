"""What a model reads of values, errors and tools."""

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_gym.tools.base import tool
from agent_gym.tools.showing import described, message, shown


def test_a_text_stays_as_it_is_and_other_values_become_json_with_their_letters() -> None:
    assert shown("Grüße", 100) == "Grüße"
    assert shown({"a": [1, None, "Grüße"]}, 100) == '{"a":[1,null,"Grüße"]}'


def test_a_value_that_json_cannot_hold_is_shown_all_the_same() -> None:
    circle: list[Any] = []
    circle.append(circle)
    assert shown(circle, 100) == '["..."]'
    assert shown(["\ud800"], 100) == "['\\ud800']"
    assert "object object at" in shown(object(), 100)


def test_a_long_text_loses_its_middle_and_the_model_is_told_how_much_is_missing() -> None:
    assert shown("a" * 20_000 + "z" * 5_000, 20_000) == (
        "a" * 15_000 + "\n[Cut here: 5,000 more characters.]\n" + "z" * 5_000
    )
    assert shown("abc", 1) == "a\n[Cut here: 2 more characters.]\n"


@pytest.mark.parametrize("value", ["\x1b[2Jred\x1b[0m", "a\x00b\x07", "\u202etxt", "half \ud800"])
def test_what_a_terminal_would_obey_is_taken_out(value: str) -> None:
    text = shown(value, 100)
    assert not set(text) & set("\x1b\x00\x07\u202e\ud800")


@given(st.text(st.characters(codec=None), max_size=60))
def test_whatever_a_tool_says_can_be_written_as_utf8(text: str) -> None:
    shown(text, 40).encode("utf-8")


def test_a_message_names_the_kind_of_error_and_is_not_endless() -> None:
    assert message(ValueError("bad")) == "ValueError: bad"
    assert message(ValueError()) == "ValueError"
    assert len(message(ValueError("x" * 10_000))) < 2_100


def test_a_tool_is_described_by_its_signature_and_parameters() -> None:
    @tool
    def find(what: str, kind: Literal["a", "b"] = "a", place: str | None = None) -> str:
        """Find it.

        Args:
            what: The thing.
        """
        return what

    assert described(find) == (
        'find(what: string, kind: "a" | "b"?, place: string | null?): Find it.\n  what: The thing.'
    )
