"""Hermes and Qwen: JSON in <tool_call>, and the XML of Qwen3-Coder inside the same tags."""

import json
import re
from collections.abc import Sequence
from typing import Any, ClassVar

from agent_gym.tools.calls import ToolCall, ToolResult
from agent_gym.tools.syntax.base import (
    MAX_CALLS,
    MalformedError,
    Parsed,
    Reading,
    ToolSyntax,
    after_space,
    from_text,
    guarded,
    named_call,
    read_json,
    to_json,
)
from agent_gym.tools.toolbox import Toolbox

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_MARKS = re.compile(r"</?think>|<tool_call>")
_MAX_TAGS = 1_000
"""Opening tags that are looked at; an error of JSON costs time that grows with where it stands."""
_FUNCTION = re.compile(r"\s*<function=([^>\n]{1,100})>")
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]{1,100})>")


class HermesSyntax(ToolSyntax):
    """`<tool_call>{"name": "search", "arguments": {"query": "Rome"}}</tool_call>`; several in one message run in order.

    What a model reads of its tools is word for word what the chat template of Qwen2.5 and Qwen3 says.
    """

    name: ClassVar[str] = "hermes"
    stop: ClassVar[tuple[str, ...]] = ("<tool_response>",)

    def instructions(self, toolbox: Toolbox) -> str:
        """See `ToolSyntax.instructions`."""
        schemas = "\n".join(json.dumps(schema, ensure_ascii=False) for schema in toolbox.schemas())
        return (
            "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
            "You are provided with function signatures within <tools></tools> XML tags:\n"
            f"<tools>\n{schemas}\n</tools>\n\n"
            "For each function call, return a json object with function name and arguments within "
            "<tool_call></tool_call> XML tags:\n"
            '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
        )

    def parse(self, text: str, tools: Toolbox) -> Parsed:
        """See `ToolSyntax.parse`."""
        reading = Reading(text)
        for _ in range(_MAX_TAGS):
            if reading.next(_MARKS) is None:
                break
            if len(reading.calls) == MAX_CALLS:
                reading.calls.append(self.problem(f"These are more than {MAX_CALLS} calls at once.", tools))
                break
            start = reading.position
            try:
                reading.calls.append(self._call(reading, tools))
            except MalformedError as error:
                reading.position = start
                self._skip(reading, str(error), tools)
        return reading.parsed()

    def show(self, results: Sequence[ToolResult]) -> str:
        """See `ToolSyntax.show`."""
        return "\n".join(
            f"<tool_response>\n{guarded(result.text, '</tool_response>')}\n</tool_response>" for result in results
        )

    def write(self, call: ToolCall) -> str:
        """See `ToolSyntax.write`."""
        return f"{_OPEN}\n{to_json({'name': call.name, 'arguments': dict(call.arguments)})}\n{_CLOSE}"

    def _call(self, reading: Reading, tools: Toolbox) -> ToolCall:
        """Read what stands behind an opening tag, and go behind the closing one."""
        text = reading.text
        function = _FUNCTION.match(text, reading.position)
        if function:
            call, end = _read_function(text, function, tools)
        else:
            value, end = read_json(text, reading.position)
            call = named_call(value)
        end = after_space(text, end)
        if text.startswith(_CLOSE, end):
            reading.position = end + len(_CLOSE)
        elif end == len(text):
            reading.position = end  # The call itself is complete; only its closing tag was not generated.
        else:
            raise MalformedError(f"Between the JSON and {_CLOSE} stands something else.")
        return call

    def _skip(self, reading: Reading, reason: str, tools: Toolbox) -> None:
        """Go behind a call that cannot be read, and say what is wrong with it."""
        start, end, think = reading.position, reading.find(_CLOSE), reading.find("</think>")
        if think >= 0 and (end < 0 or think < end):
            # The model thinks aloud about the tags; the thought was opened before the generation.
            reading.position = think
            return
        if end < 0:
            reason = f"This call was cut off before {_CLOSE}."
        elif reading.text.find(_OPEN, start, end) >= 0:
            reason = "This is a call inside another one."
        reading.calls.append(self.problem(reason, tools))
        reading.position = len(reading.text) if end < 0 else end + len(_CLOSE)


def _read_function(text: str, function: re.Match[str], tools: Toolbox) -> tuple[ToolCall, int]:
    """Read Qwen3-Coder's <function=name> with a <parameter=name> for each argument; return where it ends."""
    name, position = function[1], function.end()
    arguments: dict[str, Any] = {}
    while parameter := _PARAMETER.match(text, position):
        end = text.find("</parameter>", parameter.end())
        if end < 0:
            raise MalformedError("A <parameter> of this call is not closed.")
        value = text[parameter.end() : end].removeprefix("\n").removesuffix("\n")
        known = name in tools.tools
        arguments[parameter[1]] = from_text(value, tools, name, parameter[1]) if known else value
        position = end + len("</parameter>")
    position = after_space(text, position)
    if not text.startswith("</function>", position):
        raise MalformedError("The <function> of this call is not closed, or holds something else than parameters.")
    return ToolCall(name, arguments), position + len("</function>")
