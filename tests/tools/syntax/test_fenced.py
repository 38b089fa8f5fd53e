"""The syntax of fenced code."""

import pytest

from agent_gym.tools.calls import ToolCall, ToolResult
from agent_gym.tools.syntax import get_syntax
from agent_gym.tools.toolbox import Toolbox

FENCED = get_syntax("fenced")


@pytest.mark.parametrize("language", ["python", "py", "Python", "python3"])
def test_code_is_run_by_the_tool_of_its_language(tools: Toolbox, language: str) -> None:
    parsed = FENCED.parse(f"I calculate.\n```{language}\nif x:\n  1\n```\nThen I see.", tools)
    assert parsed.calls == [ToolCall("python", {"code": "if x:\n  1"})]
    assert parsed.content == "I calculate.\n\nThen I see."


def test_several_blocks_run_in_order_and_json_names_its_tool(tools: Toolbox) -> None:
    text = '```python\n1\n```\n```json\n{"name": "book", "arguments": {"city": "Rome", "nights": 1}}\n```'
    assert FENCED.parse(text, tools).calls == [
        ToolCall("python", {"code": "1"}),
        ToolCall("book", {"city": "Rome", "nights": 1}),
    ]


def test_other_blocks_are_text(tools: Toolbox) -> None:
    for text in ("```\n1\n```", "```rust\n1\n```", '```json\n{"a": 1}\n```', "`python` 1"):
        assert FENCED.parse(text, tools).calls == []


def test_a_longer_fence_holds_a_shorter_one(tools: Toolbox) -> None:
    code = 'print("""\n```python\nx\n```\n""")'
    written = FENCED.write(ToolCall("python", {"code": code}))
    assert written.startswith("````python\n")
    assert FENCED.parse(written, tools).calls == [ToolCall("python", {"code": code})]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("```python\nprint(", "This block was cut off before its closing fence."),
        ('```json\n{"name": "se', "This block was cut off before its closing fence."),
        ('```json\n{"name": search}\n```', "The JSON of this call cannot be read"),
        ('```json\n{"name": "search", "arguments": 3}\n```', 'The "arguments" of a call must be a JSON object.'),
    ],
    ids=["cut off", "json cut off", "broken", "no object"],
)
def test_what_is_wrong_with_a_call_is_told_with_the_right_form(tools: Toolbox, text: str, reason: str) -> None:
    [call] = FENCED.parse(text, tools).calls
    assert call.problem.startswith(reason) and "Write it like this: ```" in call.problem


def test_a_result_cannot_forge_its_own_end() -> None:
    assert FENCED.show([ToolResult("python", "a\n```\nb")]) == "````output\na\n```\nb\n````"
