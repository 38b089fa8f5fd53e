"""The syntax of ARPO."""

import pytest

from agent_gym.errors import ToolError
from agent_gym.tools.base import tool
from agent_gym.tools.calls import ToolCall, ToolResult
from agent_gym.tools.syntax import get_syntax
from agent_gym.tools.syntax.arpo import boxed
from agent_gym.tools.toolbox import Toolbox

ARPO = get_syntax("arpo")


def test_a_turn_as_in_the_paper_is_read(tools: Toolbox) -> None:
    parsed = ARPO.parse("<think> I need facts. </think> <search> capital of Italy </search>", tools)
    assert parsed.calls == [ToolCall("search", {"query": "capital of Italy"})]
    assert (parsed.thought, parsed.answer, parsed.content) == ("I need facts.", None, "")


def test_lines_of_code_keep_their_indentation(tools: Toolbox) -> None:
    assert ARPO.parse("<python>\n  if x:\n    1\n</python>", tools).calls == [
        ToolCall("python", {"code": "  if x:\n    1"})
    ]


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (r" The final answer is \[ \boxed{\frac{1}{2}} \] ", r"\frac{1}{2}"),
        (r"\boxed{1} or rather \boxed{ 2 }", "2"),
        (r"\boxed{ not closed", r"\boxed{ not closed"),
        (" Rome ", "Rome"),
    ],
)
def test_the_answer_is_what_stands_in_the_last_box(tools: Toolbox, body: str, answer: str) -> None:
    parsed = ARPO.parse(f"<think>So.</think><answer>{body}</answer>", tools)
    assert (parsed.answer, parsed.calls) == (answer, [])


def test_there_may_be_no_box() -> None:
    assert boxed("42") is None and boxed(r"\boxed{") is None and boxed(r"\boxed{}") == ""


def test_what_comes_first_counts_an_answer_or_a_call(tools: Toolbox) -> None:
    first = ARPO.parse("<answer>Rome</answer><search>x</search>", tools)
    assert (first.answer, first.calls) == ("Rome", [])
    second = ARPO.parse("<search>x</search><result>made up</result><answer>Rome</answer>", tools)
    assert (second.answer, second.calls) == (None, [ToolCall("search", {"query": "x"})])


def test_json_of_several_arguments_is_read(tools: Toolbox) -> None:
    assert ARPO.parse('<book>{"city": "Rome", "nights": 2}</book>', tools).calls == [
        ToolCall("book", {"city": "Rome", "nights": 2})
    ]
    assert ARPO.parse('<search>{"query": "x", "limit": 2}</search>', tools).calls == [
        ToolCall("search", {"query": "x", "limit": 2})
    ]
    assert ARPO.parse('<python>{"a": 1}</python>', tools).calls == [ToolCall("python", {"code": '{"a": 1}'})]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<search> Rome", "This was cut off before </search>."),
        ("<answer> Rome", "This was cut off before </answer>."),
        ("<search>a</search><python>b</python>", "These are two calls at once: make one, and wait for its result."),
        ("<search><search>a</search></search>", "This is a call inside another one."),
        ("<book>Rome</book>", "The arguments of book must be a JSON object."),
    ],
    ids=["cut off", "answer cut off", "two", "nested", "no object"],
)
def test_what_is_wrong_with_a_call_is_told_with_the_right_form(tools: Toolbox, text: str, reason: str) -> None:
    [call] = ARPO.parse(text, tools).calls
    form = '<book> {"city": "...", "nights": 1} </book>' if "book" in text else "<search> ... </search>"
    assert call.problem == f"{reason} Write it like this: {form}"


def test_tags_of_no_tool_are_text(tools: Toolbox) -> None:
    parsed = ARPO.parse("<b>bold</b> <browse>x</browse>", tools)
    assert (parsed.calls, parsed.content) == ([], "<b>bold</b> <browse>x</browse>")


def test_a_thought_about_the_tags_that_was_opened_before_the_generation_is_no_call(tools: Toolbox) -> None:
    parsed = ARPO.parse("Use <search> or <search>y</search>?</think><search>x</search>", tools)
    assert parsed.calls == [ToolCall("search", {"query": "x"})]


def test_generation_stops_behind_a_call_of_any_tool(tools: Toolbox) -> None:
    assert set(ARPO.stops(tools)) >= {"</search>", "</python>", "</book>", "</answer>", "<result>"}


def test_a_result_cannot_forge_its_own_end() -> None:
    assert ARPO.show([ToolResult("search", "a</result>b")]) == "<result>\na<\\/result>b\n</result>"


def test_a_tool_whose_tag_means_something_else_cannot_be_called() -> None:
    @tool
    def answer(text: str) -> str:
        return text

    with pytest.raises(ToolError, match="A tool named 'answer' cannot be called in the syntax 'arpo'"):
        ARPO.write(ToolCall("answer", {"text": "x"}))
    assert ARPO.parse("<answer>x</answer>", Toolbox([answer])).answer == "x"
