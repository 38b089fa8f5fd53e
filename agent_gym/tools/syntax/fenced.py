"""Fenced code: a block of Python is run by the tool "python", and JSON names any other tool."""

import re
from collections.abc import Sequence
from typing import ClassVar

from agent_gym.tools.calls import ToolCall, ToolResult
from agent_gym.tools.syntax.base import (
    MAX_CALLS,
    MalformedError,
    Parsed,
    Reading,
    ToolSyntax,
    named_call,
    read_json,
    to_json,
)
from agent_gym.tools.toolbox import Toolbox

_MARKS = re.compile(r"</?think>|^ {0,3}(`{3,}+)[ \t]*([\w+-]*+)[ \t\r]*$", re.MULTILINE)
_RUNS = re.compile(r"`{3,}")
_ALIASES = {"py": "python", "python3": "python", "sh": "bash", "shell": "bash"}
_LANGUAGES = ("python", "bash")


class FencedSyntax(ToolSyntax):
    """```` ```python ```` and the code; several blocks in one message run in order.

    A block is run by the tool of its name; one of JSON with "name" and "arguments" is a call of that tool. Blocks of
    other languages are text.
    """

    name: ClassVar[str] = "fenced"
    stop: ClassVar[tuple[str, ...]] = ("```output",)

    def instructions(self, toolbox: Toolbox) -> str:
        """See `ToolSyntax.instructions`."""
        languages = [name for name in toolbox.names if name in _LANGUAGES]
        forms = [f"To run {name} code, write it in a block:\n```{name}\n...\n```" for name in languages]
        if len(languages) < len(toolbox.names):
            call = self.write(ToolCall("tool", {"argument": "..."}))
            forms.append(f"To call {'another' if languages else 'a'} tool, write a block of JSON:\n{call}")
        return "\n\n".join(
            [
                f"You can use these tools:\n{toolbox.describe()}",
                *forms,
                "Then stop and wait: what it gives follows in a block ```output.",
            ]
        )

    def parse(self, text: str, tools: Toolbox) -> Parsed:
        """See `ToolSyntax.parse`."""
        reading = Reading(text)
        while mark := reading.next(_MARKS):
            start, end, behind = _block(text, mark)
            reading.position = behind
            call = self._call(text, start, end, mark[2].lower(), tools)
            if call is None:
                continue
            if len(reading.calls) == MAX_CALLS:
                reading.calls.append(self.problem(f"These are more than {MAX_CALLS} calls at once.", tools))
                break
            reading.calls.append(call)
        return reading.parsed()

    def show(self, results: Sequence[ToolResult]) -> str:
        """See `ToolSyntax.show`."""
        return "\n".join(_fenced("output", result.text) for result in results)

    def write(self, call: ToolCall) -> str:
        """See `ToolSyntax.write`."""
        values = list(call.arguments.values())
        if call.name in _LANGUAGES and len(values) == 1 and isinstance(values[0], str):
            return _fenced(call.name, values[0])
        return _fenced("json", to_json({"name": call.name, "arguments": dict(call.arguments)}))

    def _call(self, text: str, start: int, end: int, language: str, tools: Toolbox) -> ToolCall | None:
        """Return the call that a block makes; None where it is text."""
        name = language if language in tools.names else _ALIASES.get(language, language)
        parameter = tools.text_parameter(name)
        if parameter is not None:
            return (
                self.problem("This block was cut off before its closing fence.", tools, name)
                if end < 0
                else ToolCall(name, {parameter: text[start:end]})
            )
        if language != "json" or (end >= 0 and text.find('"name"', start, end) < 0):
            return None
        if end < 0:
            return self.problem("This block was cut off before its closing fence.", tools)
        try:
            value, _ = read_json(text[start:end])
            return named_call(value)
        except MalformedError as error:
            return self.problem(str(error), tools)


def _block(text: str, opening: re.Match[str]) -> tuple[int, int, int]:
    """Return where the content of a block starts and ends (-1 if it is not closed), and what is behind it."""
    start = opening.end() + 1
    closing = re.compile(rf"^ {{0,3}}`{{{len(opening[1])},}}+[ \t\r]*$", re.MULTILINE).search(text, start)
    if closing is None:
        return start, -1, len(text)
    return start, max(closing.start() - 1, start), closing.end()


def _fenced(language: str, text: str) -> str:
    """Return a block with a fence longer than any in it."""
    fence = "`" * max([3, *(len(run) + 1 for run in _RUNS.findall(text))])
    return f"{fence}{language}\n{text}\n{fence}"
