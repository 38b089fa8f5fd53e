"""OpenAI's tool_calls as JSON."""

import json

import pytest

from agent_gym.tools.calls import ToolCall, ToolResult
from agent_gym.tools.syntax import get_syntax
from agent_gym.tools.toolbox import Toolbox

OPENAI = get_syntax("openai")
CALL = {"id": "call_7", "type": "function", "function": {"name": "search", "arguments": '{"query": "Rome"}'}}
READ = ToolCall("search", {"query": "Rome"}, id="call_7")


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([CALL]),
        json.dumps(CALL),
        "Let me see.</think>\n" + json.dumps([CALL], indent=1),
        "<think>Let me see.</think>" + json.dumps({"role": "assistant", "content": None, "tool_calls": [CALL]}),
        json.dumps([{**CALL, "function": {"name": "search", "arguments": {"query": "Rome"}}}]),
    ],
    ids=["list", "object", "thought", "message", "arguments as object"],
)
def test_a_call_is_read_with_its_id(tools: Toolbox, text: str) -> None:
    assert OPENAI.parse(text, tools).calls == [READ]


def test_a_message_may_say_something_beside_its_calls(tools: Toolbox) -> None:
    parsed = OPENAI.parse(json.dumps({"content": "I look.", "tool_calls": [CALL, CALL]}), tools)
    assert (parsed.content, parsed.calls) == ("I look.", [READ, READ])


def test_text_and_other_json_are_no_calls(tools: Toolbox) -> None:
    for text in ("Rome", '{"answer": "Rome"}', "[1, 2]", "[not json", "<think>[1]", "{}", "[]"):
        assert OPENAI.parse(text, tools).calls == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (json.dumps([CALL])[:60], "The JSON of this call cannot be read"),
        (json.dumps([CALL]) + " and", "Behind the JSON of the calls stands something else."),
        ('[{"function": {"arguments": "{}"}}]', 'A call is a JSON object with "name" and "arguments".'),
        ('[{"function": {"name": "search", "arguments": "[1]"}}]', 'The "arguments" of a call must be a JSON object.'),
        ('[{"function": {"name": "search", "arguments": "{que"}}]', "The JSON of this call cannot be read"),
    ],
    ids=["cut off", "more", "no name", "no object", "broken inside"],
)
def test_what_is_wrong_with_a_call_is_told_with_the_right_form(tools: Toolbox, text: str, reason: str) -> None:
    [call] = OPENAI.parse(text, tools).calls
    assert call.problem.startswith(reason) and '"arguments": "{\\"query\\": \\"...\\"}"' in call.problem


def test_results_are_messages_of_the_role_tool() -> None:
    [message] = json.loads(OPENAI.show([ToolResult("search", "in Italy", id="call_7")]))
    assert message == {"role": "tool", "tool_call_id": "call_7", "name": "search", "content": "in Italy"}
