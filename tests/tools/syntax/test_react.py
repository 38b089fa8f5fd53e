"""The syntax of ReAct."""

import pytest

from agent_gym.tools.calls import ToolCall, ToolResult
from agent_gym.tools.syntax import get_syntax
from agent_gym.tools.toolbox import Toolbox

REACT = get_syntax("react")


def test_a_turn_is_read(tools: Toolbox) -> None:
    parsed = REACT.parse('Thought: I look\nit up.\nAction: search\nAction Input: {"query": "Rome"}\n', tools)
    assert parsed.calls == [ToolCall("search", {"query": "Rome"})]
    assert (parsed.thought, parsed.answer) == ("I look\nit up.", None)


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("Action: search\nAction Input: Rome, Italy", ToolCall("search", {"query": "Rome, Italy"})),
        ('Action: search\nAction Input: "Rome"', ToolCall("search", {"query": "Rome"})),
        ("Action: count\nAction Input: 3", ToolCall("count", {"number": 3})),
        ("Action: python\nAction Input: {x for x in y}", ToolCall("python", {"code": "{x for x in y}"})),
        ("Action: python\nAction Input:\nif x:\n  1", ToolCall("python", {"code": "if x:\n  1"})),
        ("Action: done", ToolCall("done")),
        ("Action: done\nAction Input: ", ToolCall("done")),
    ],
    ids=["bare", "quoted", "number", "set", "lines", "no input", "empty"],
)
def test_a_bare_input_goes_to_the_one_parameter(tools: Toolbox, text: str, call: ToolCall) -> None:
    assert REACT.parse(text, tools).calls == [call]


def test_the_final_answer_is_read(tools: Toolbox) -> None:
    parsed = REACT.parse("Thought: I know.\nFinal Answer: Rome\nof course", tools)
    assert (parsed.answer, parsed.calls, parsed.thought) == ("Rome\nof course", [], "I know.")


def test_what_the_model_observes_by_itself_is_not_read(tools: Toolbox) -> None:
    text = 'Action: search\nAction Input: {"query": "x"}\nObservation: made up\nFinal Answer: Rome'
    parsed = REACT.parse(text, tools)
    assert (parsed.calls, parsed.answer) == ([ToolCall("search", {"query": "x"})], None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Action: search", "Below this Action stands no Action Input."),
        ("Action Input: x", "Above this Action Input stands no Action."),
        ('Action: search\nAction Input: {"query": "Ro', "The JSON of this call cannot be read: Unterminated string"),
        ("Action: search\nAction Input: a\nAction: search\nAction Input: b", "These are two calls at once"),
        ("Action: book\nAction Input: Rome", "The Action Input of book must be a JSON object."),
    ],
    ids=["no input", "no action", "cut off", "two", "no object"],
)
def test_what_is_wrong_with_a_call_is_told_with_the_right_form(tools: Toolbox, text: str, reason: str) -> None:
    [call] = REACT.parse(text, tools).calls
    assert call.problem.startswith(reason)
    assert "Write it like this: Action: " in call.problem and "\nAction Input: {" in call.problem


def test_an_unknown_tool_is_left_to_the_toolbox(tools: Toolbox) -> None:
    [call] = REACT.parse("Action: serch\nAction Input: x", tools).calls
    assert tools.call(call).text.startswith("There is no tool 'serch': did you mean 'search'")


def test_results_are_observations() -> None:
    assert REACT.show([ToolResult("search", "Rome")]) == "Observation: Rome"
