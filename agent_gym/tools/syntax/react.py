"""ReAct: lines that begin with Thought, Action, Action Input, Observation and Final Answer.

Yao et al., 2022 (arXiv 2210.03629), in the form that agent libraries made of it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from agent_gym.tools.calls import ToolCall, ToolResult
from agent_gym.tools.syntax.base import (
    MalformedError,
    Parsed,
    Reading,
    ToolSyntax,
    after_space,
    arguments_of,
    from_text,
    read_json,
    to_json,
)
from agent_gym.tools.toolbox import Toolbox

_MARKS = re.compile(r"</?think>|^[ \t]*(Thought|Action Input|Action|Observation|Final Answer):", re.MULTILINE)


class ReactSyntax(ToolSyntax):
    """`Action: search` and below it `Action Input: {"query": "Rome"}`; one call at a time.

    The input is JSON of all arguments, or the bare text for a tool that needs one. What follows a line "Observation:"
    is not the model's to write, and not read.
    """

    name: ClassVar[str] = "react"
    stop: ClassVar[tuple[str, ...]] = ("\nObservation:",)

    def instructions(self, toolbox: Toolbox) -> str:
        """See `ToolSyntax.instructions`."""
        return (
            f"You can use these tools:\n{toolbox.describe()}\n\n"
            "Use the following format:\n\n"
            "Thought: you should always think about what to do\n"
            f"Action: the tool to use, one of {', '.join(toolbox.names)}\n"
            "Action Input: its arguments, as a JSON object on one line\n"
            "Observation: the result of the action\n"
            "... (Thought, Action, Action Input and Observation can repeat)\n"
            "Thought: I now know the final answer\n"
            "Final Answer: the final answer"
        )

    def parse(self, text: str, tools: Toolbox) -> Parsed:
        """See `ToolSyntax.parse`."""
        reading = Reading(text)
        action: str | None = None
        while mark := reading.next(_MARKS):
            label = mark[1]
            if label == "Thought":
                reading.thought(_value(reading))
            elif label == "Action":
                self._without_input(action, reading, tools)
                action = _value(reading).partition("\n")[0].strip()
            elif label == "Action Input":
                self._add(reading, self._call(action, reading, tools))
                action = None
            elif label == "Final Answer" and action is None and not reading.calls:
                reading.answer = text[reading.position :].partition("\nObservation:")[0].strip()
                break
            else:
                break
        self._without_input(action, reading, tools)
        parsed = reading.parsed()
        return Parsed(self.alone(parsed.calls, tools), parsed.answer, parsed.thought, parsed.content)

    def show(self, results: Sequence[ToolResult]) -> str:
        """See `ToolSyntax.show`."""
        return "\n".join(f"Observation: {result.text}" for result in results)

    def write(self, call: ToolCall) -> str:
        """See `ToolSyntax.write`."""
        return f"Action: {call.name}\nAction Input: {to_json(dict(call.arguments))}"

    def _add(self, reading: Reading, call: ToolCall) -> None:
        if len(reading.calls) < 2:  # Two are a problem already.
            reading.calls.append(call)

    def _without_input(self, action: str | None, reading: Reading, tools: Toolbox) -> None:
        """Add the call of an action that no input follows, if there is one."""
        if action is None:
            return
        tool = tools.tools.get(action)
        if tool is None or not tool.parameters.get("required"):
            self._add(reading, ToolCall(action))
        else:
            self._add(reading, self.problem("Below this Action stands no Action Input.", tools, action))

    def _call(self, action: str | None, reading: Reading, tools: Toolbox) -> ToolCall:
        """Read an input, and go behind it."""
        if len(reading.calls) > 1:
            return reading.calls[-1]
        if action is None:
            _value(reading)
            return self.problem("Above this Action Input stands no Action.", tools)
        try:
            return ToolCall(action, _arguments(reading, tools, action))
        except MalformedError as error:
            return self.problem(str(error), tools, action)


def _value(reading: Reading) -> str:
    """Return the text up to the next mark, and go there."""
    mark = _MARKS.search(reading.text, reading.position)
    start, reading.position = reading.position, mark.start() if mark else len(reading.text)
    return reading.text[start : reading.position].strip()


def _arguments(reading: Reading, tools: Toolbox, name: str) -> Mapping[str, Any]:
    """Return the arguments that an input holds: JSON of them, or one text.

    Raises:
        MalformedError: It is JSON that was cut off or broken, or the tool needs more than a text.
    """
    start = after_space(reading.text, reading.position)
    if reading.text.startswith("{", start):
        try:
            value, reading.position = read_json(reading.text, start)
            return arguments_of(value)
        except MalformedError:
            if _KEY.match(reading.text, start):
                raise
    text = _value(reading)
    tool = tools.tools.get(name)
    if tool is None or (not text and not tool.parameters.get("required")):
        return {}
    if tool.text_parameter is None:
        raise MalformedError(f"The Action Input of {name} must be a JSON object.")
    return {tool.text_parameter: from_text(_unquoted(text), tools, name, tool.text_parameter)}


_KEY = re.compile(r'\{\s*"')


def _unquoted(text: str) -> str:
    """Return what a JSON string says, and any other text as it is."""
    if not text.startswith('"'):
        return text
    try:
        value, end = read_json(text)
    except MalformedError:
        return text
    return value if isinstance(value, str) and end == len(text) else text
