"""OpenAI's tool_calls, as JSON: what a server returns for a message, or a model that was trained to write it."""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from agent_gym.tools.calls import ToolCall, ToolResult
from agent_gym.tools.syntax.base import MAX_CALLS, MalformedError, Parsed, ToolSyntax, named_call, read_json, to_json
from agent_gym.tools.toolbox import Toolbox

_MEANT = re.compile(r'"function"|"tool_calls"')
"""What broken JSON holds that was meant as a call."""


class OpenAISyntax(ToolSyntax):
    r"""`[{"id": "1", "type": "function", "function": {"name": "search", "arguments": "{\"query\": \"Rome\"}"}}]`.

    A list, one such object, or a whole message with "tool_calls"; several run in order.
    """

    name: ClassVar[str] = "openai"

    def instructions(self, toolbox: Toolbox) -> str:
        """See `ToolSyntax.instructions`."""
        return (
            f"You can call these tools:\n{to_json(toolbox.schemas())}\n\n"
            "To call some, answer with nothing but JSON, a list of calls with arguments as JSON in a string:\n"
            f"{self.write(ToolCall('name', {'argument': '...'}, id='1'))}"
        )

    def parse(self, text: str, tools: Toolbox) -> Parsed:
        """See `ToolSyntax.parse`."""
        thought, content = _thought(text)
        if not content.startswith(("[", "{")):
            return Parsed([], None, thought, content)
        try:
            value, end = read_json(content)
            if content[end:].strip():
                raise MalformedError("Behind the JSON of the calls stands something else.")
        except MalformedError as error:
            calls = [self.problem(str(error), tools)] if _MEANT.search(content) else []
            return Parsed(calls, None, thought, "" if calls else content)
        items, said = _items(value)
        if not items:
            return Parsed([], None, thought, content)
        calls = [self._call(item, tools) for item in items[:MAX_CALLS]]
        if len(items) > MAX_CALLS:
            calls.append(self.problem(f"These are more than {MAX_CALLS} calls at once.", tools))
        return Parsed(calls, None, thought, said)

    def show(self, results: Sequence[ToolResult]) -> str:
        """See `ToolSyntax.show`."""
        return to_json(
            [{"role": "tool", "tool_call_id": each.id, "name": each.name, "content": each.text} for each in results]
        )

    def write(self, call: ToolCall) -> str:
        """See `ToolSyntax.write`."""
        function = {"name": call.name, "arguments": to_json(dict(call.arguments))}
        return to_json([{"id": call.id, "type": "function", "function": function}])

    def _call(self, item: Any, tools: Toolbox) -> ToolCall:
        id = item.get("id") if isinstance(item, dict) else None
        try:
            return named_call(
                item.get("function") if isinstance(item, dict) else None, id if isinstance(id, str) else ""
            )
        except MalformedError as error:
            return self.problem(str(error), tools)


def _thought(text: str) -> tuple[str, str]:
    """Return what was thought before the message, and the message."""
    text = text.strip()
    if text.startswith("<think>") or not text.startswith(("[", "{")):
        thought, closed, content = text.removeprefix("<think>").partition("</think>")
        if closed:
            return thought.strip(), content.strip()
        return (thought.strip(), "") if text.startswith("<think>") else ("", text)
    return "", text


def _items(value: Any) -> tuple[list[Any], str]:
    """Return the objects that stand for calls, none where the JSON is something else, and what was said beside."""
    said = ""
    if isinstance(value, dict) and isinstance(value.get("tool_calls"), list):
        content = value.get("content")
        said = content if isinstance(content, str) else ""
        items = value["tool_calls"]
    else:
        items = value if isinstance(value, list) else [value]
    meant = any(isinstance(item, dict) and "function" in item for item in items)
    return (items if meant else []), said
