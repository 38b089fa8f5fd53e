"""From generated text to actions and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_gym.errors import UnknownIdError
from agent_gym.rollout.actions import SYNTAXES, Action, plain, syntax, tagged


def test_plain_takes_everything_but_white_space() -> None:
    assert plain("  go to bed 1\n") == Action("go to bed 1")
    assert plain(" \n") == Action("", malformed=True)


@pytest.mark.parametrize(
    ("generated", "text", "malformed"),
    [
        ("I think. <action> look </action>", "look", False),
        ("<action>look</action> or <action>go</action>!", "go", False),
        ("<action>two\nlines</action>", "two\nlines", False),
        ("<action>cut off", "cut off", True),
        ("<action></action>", "", True),
        ("no tags", "", True),
        ("", "", True),
    ],
)
def test_tagged_takes_the_last_block(generated: str, text: str, malformed: bool) -> None:
    assert tagged(generated) == Action(text, malformed)


@pytest.mark.parametrize("name", sorted(SYNTAXES))
@given(action=st.text(st.characters(exclude_characters="<>")).map(str.strip).filter(bool))
def test_what_an_expert_writes_is_parsed_to_its_action(name: str, action: str) -> None:
    assert syntax(name).parse(syntax(name).write(action)) == Action(action)


def test_an_unknown_syntax_is_named() -> None:
    with pytest.raises(UnknownIdError, match="did you mean 'tagged'"):
        syntax("taged")
