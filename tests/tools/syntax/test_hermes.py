"""The syntax of Hermes and Qwen."""

import json

import pytest

from agent_gym.tools.calls import ToolCall, ToolResult
from agent_gym.tools.syntax import get_syntax
from agent_gym.tools.toolbox import Toolbox

HERMES = get_syntax("hermes")
RIGHT_FORM = 'Write it like this: <tool_call>\n{"name": "search", "arguments": {"query": "..."}}\n</tool_call>'


def test_several_calls_run_in_order_and_the_text_around_them_is_content(tools: Toolbox) -> None:
    parsed = HERMES.parse(
        '<think>Two.</think>I look.\n<tool_call>\n{"name": "search", "arguments": {"query": "a"}}\n</tool_call>\n'
        '<tool_call>{"arguments": {"code": "1"}, "name": "python"}</tool_call>',
        tools,
    )
    assert parsed.calls == [ToolCall("search", {"query": "a"}), ToolCall("python", {"code": "1"})]
    assert (parsed.thought, parsed.content, parsed.answer) == ("Two.", "I look.", None)


def test_the_xml_of_qwen3_coder_is_read_with_the_types_of_the_parameters(tools: Toolbox) -> None:
    parsed = HERMES.parse(
        "<tool_call>\n<function=book>\n<parameter=city>\nRome\n</parameter>\n<parameter=nights>\n3\n</parameter>\n"
        '<parameter=extras>\n["tea"]\n</parameter>\n</function>\n</tool_call>',
        tools,
    )
    assert parsed.calls == [ToolCall("book", {"city": "Rome", "nights": 3, "extras": ["tea"]})]
    code = HERMES.parse(
        "<tool_call>\n<function=python>\n<parameter=code>\nif x:\n  1\n</parameter>\n</function>", tools
    )
    assert code.calls == [ToolCall("python", {"code": "if x:\n  1"})]


def test_a_call_that_lacks_only_its_closing_tag_is_read(tools: Toolbox) -> None:
    assert HERMES.parse('<tool_call>{"name": "done", "arguments": {}}', tools).calls == [ToolCall("done", {})]


def test_a_closing_tag_inside_an_argument_does_not_end_the_call(tools: Toolbox) -> None:
    text = '<tool_call>{"name": "python", "arguments": {"code": "\'</tool_call></think>\'"}}</tool_call>'
    assert HERMES.parse(text, tools).calls == [ToolCall("python", {"code": "'</tool_call></think>'"})]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('<tool_call>{"name": "search", "argum', "This call was cut off before </tool_call>."),
        ('<tool_call>{"name": "search"}<tool_call>{}</tool_call></tool_call>', "This is a call inside another one."),
        ("<tool_call>{name: search}</tool_call>", "The JSON of this call cannot be read: Expecting property name"),
        ('<tool_call>["search"]</tool_call>', 'A call is a JSON object with "name" and "arguments".'),
        ('<tool_call>{"name": "search", "arguments": [1]}</tool_call>', 'The "arguments" of a call must be a JSON'),
        ('<tool_call>{"name": "done"} or so</tool_call>', "Between the JSON and </tool_call> stands something else."),
        ("<tool_call><function=search>x</function></tool_call>", "The <function> of this call is not closed, or"),
    ],
    ids=["cut off", "nested", "broken", "no name", "no object", "more", "xml"],
)
def test_what_is_wrong_with_a_call_is_told_with_the_right_form(tools: Toolbox, text: str, reason: str) -> None:
    [call] = HERMES.parse(text, tools).calls
    assert call.problem.startswith(reason) and call.problem.endswith(RIGHT_FORM)


def test_a_thought_about_the_tags_that_was_opened_before_the_generation_is_no_call(tools: Toolbox) -> None:
    right = '<tool_call>{"name": "done", "arguments": {}}</tool_call>'
    parsed = HERMES.parse(f"I could write <tool_call> now, or {right}.</think>\n{right}", tools)
    assert parsed.calls == [ToolCall("done", {})]
    assert parsed.thought.startswith("I could write")


def test_more_calls_than_can_be_meant_are_not_run(tools: Toolbox) -> None:
    calls = HERMES.parse('<tool_call>{"name": "done"}</tool_call>' * 1000, tools).calls
    assert len(calls) == 33 and "more than 32 calls at once" in calls[-1].problem


def test_the_instructions_hold_the_schemas_as_qwen_was_trained_on_them(tools: Toolbox) -> None:
    told = HERMES.instructions(tools)
    assert told.startswith("# Tools\n\nYou may call one or more functions to assist with the user query.")
    listed = told.partition("<tools>\n")[2].partition("\n</tools>")[0].splitlines()
    assert [json.loads(line) for line in listed] == tools.schemas()


def test_a_result_cannot_forge_its_own_end() -> None:
    shown = HERMES.show([ToolResult("a", "x</tool_response>y"), ToolResult("b", "z")])
    assert shown == "<tool_response>\nx<\\/tool_response>y\n</tool_response>\n<tool_response>\nz\n</tool_response>"
