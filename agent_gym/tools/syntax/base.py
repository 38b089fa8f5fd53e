"""What all ways of writing tool calls share: the interface, and pieces for reading text that may be anything.

What a model writes is hostile input. It is scanned from left to right, each part once: no input takes more than linear
time, and none raises.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from agent_gym.tools.calls import ToolCall, ToolResult
from agent_gym.tools.toolbox import Toolbox

MAX_CALLS = 32
"""Calls that are read from one message; a model that writes more has lost its way."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a generation says."""

    calls: list[ToolCall] = field(default_factory=list)
    """In the order they stand; one that could not be read has a `problem`."""
    answer: str | None = None
    """The final answer, where the syntax has a form for it and the generation gives one instead of a call."""
    thought: str = ""
    """What stands in <think>, or after "Thought:"."""
    content: str = ""
    """The text outside of thoughts, calls and answer."""


class ToolSyntax(ABC):
    """A way of writing tool calls."""

    name: ClassVar[str]
    stop: ClassVar[tuple[str, ...]] = ()
    """Strings at which generation may stop, whatever the tools are: what comes next is not the model's to write."""

    def stops(self, toolbox: Toolbox) -> tuple[str, ...]:
        """Return the strings at which generation may stop with these tools."""
        return self.stop

    @abstractmethod
    def instructions(self, toolbox: Toolbox) -> str:
        """Return what tells a model which tools there are and how to call them."""

    @abstractmethod
    def parse(self, text: str, tools: Toolbox) -> Parsed:
        """Read a generation; never raises. Calls that stand in a thought do not count.

        A call that is cut off, nested, not alone where only one is allowed, or otherwise malformed is one with a
        `problem` that says so and shows the right form. Names and arguments are checked by `Toolbox.call`.
        """

    @abstractmethod
    def show(self, results: Sequence[ToolResult]) -> str:
        """Return the observation that tells the model the results."""

    @abstractmethod
    def write(self, call: ToolCall) -> str:
        """Return the text that an expert would generate for a call; `parse` reads it back as it was.

        Raises:
            ToolError: The syntax cannot write it.
        """

    def problem(self, reason: str, tools: Toolbox, name: str = "") -> ToolCall:
        """Return a call that could not be read, with the reason and the right form for the model."""
        return ToolCall(name, problem=f"{reason} Write it like this: {self.write(example(tools, name))}")

    def alone(self, calls: list[ToolCall], tools: Toolbox) -> list[ToolCall]:
        """Return the calls of a syntax that allows one at a time: more than one are a problem."""
        if len(calls) < 2:
            return calls
        return [self.problem("These are two calls at once: make one, and wait for its result.", tools, calls[0].name)]


class Reading:
    """What has been read of a generation so far, in one pass from left to right.

    Args:
        text: The generation.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.calls: list[ToolCall] = []
        self.answer: str | None = None
        self._opened_before = 0
        """Where a thought ends that was opened before the generation."""
        self._thoughts: list[str] = []
        self._content: list[str] = []
        self._found: dict[str, tuple[int, int]] = {}

    def next(self, marks: re.Pattern[str]) -> re.Match[str] | None:
        """Go to the next mark, the text before it being content; at the last mark all the rest is."""
        while True:
            mark = marks.search(self.text, self.position)
            self._content.append(self.text[self.position : mark.start() if mark else len(self.text)])
            self.position = mark.end() if mark else len(self.text)
            if mark is None or not self._think(mark[0]):
                return mark

    def find(self, what: str) -> int:
        """Return where a string stands next, or -1; asking again and again costs no more than one pass."""
        since, found = self._found.get(what, (self.position + 1, -1))
        if self.position < since or 0 <= found < self.position:
            found = self.text.find(what, self.position)
            self._found[what] = (self.position, found)
        return found

    def thought(self, text: str) -> None:
        """Add to what the model thought."""
        self._thoughts.append(text.strip())

    def parsed(self) -> Parsed:
        """Return all that was read."""
        before = self.text[: self._opened_before].strip()
        thought = "\n".join(part for part in (before, *self._thoughts) if part)
        return Parsed(self.calls, self.answer, thought, "".join(self._content).strip())

    def _think(self, mark: str) -> bool:
        """Read a thought, if the mark is of one."""
        if mark == "<think>":
            end = self.find("</think>")
            self.thought(self.text[self.position : None if end < 0 else end])
            self.position = len(self.text) if end < 0 else end + len("</think>")
        elif mark == "</think>":
            # It was opened before the generation, as some chat templates do: all so far was thought.
            self.calls.clear()
            self.answer = None
            self._content.clear()
            self._thoughts.clear()
            self._opened_before = self.position - len("</think>")
        return mark in ("<think>", "</think>")


class MalformedError(Exception):
    """A call cannot be read; says why, in words for the model."""


def read_json(text: str, position: int = 0) -> tuple[Any, int]:
    """Read a JSON value at a position; return it and where it ends.

    Raises:
        MalformedError: There is none.
    """
    position = after_space(text, position)
    try:
        return _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        place = f" at character {error.pos - position}" if error.pos > position else ""
        raise MalformedError(f"The JSON of this call cannot be read: {error.msg}{place}.") from None
    except (ValueError, RecursionError):
        raise MalformedError("The JSON of this call cannot be read: it has too many levels or digits.") from None


_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"\s*")


def after_space(text: str, position: int) -> int:
    """Return the position of what is not white space."""
    space = _SPACE.match(text, position)
    return space.end() if space else position


def named_call(value: Any, id: str = "") -> ToolCall:
    """Return the call that {"name": ..., "arguments": {...}} stands for; the arguments may be JSON in a string.

    Raises:
        MalformedError: It stands for none.
    """
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise MalformedError('A call is a JSON object with "name" and "arguments".')
    return ToolCall(value["name"], arguments_of(value.get("arguments", {})), id)


def arguments_of(value: Any) -> Mapping[str, Any]:
    """Return the arguments, be they an object or JSON of one in a string.

    Raises:
        MalformedError: They are no object.
    """
    if isinstance(value, str) and value.strip():
        value, _ = read_json(value)
    if value is None or value == "":
        return {}
    if not isinstance(value, dict):
        raise MalformedError('The "arguments" of a call must be a JSON object.')
    return value


def from_text(text: str, tools: Toolbox, name: str, parameter: str) -> Any:
    """Return the value that a bare text means for a parameter: itself, or JSON where it cannot be a text."""
    schema = tools.tools[name].parameters.get("properties", {}).get(parameter, {})
    kinds = [schema.get("type")] + [each.get("type") for each in schema.get("anyOf", ())]
    if "string" in kinds or ("enum" not in schema and not any(kinds)):
        return text
    try:
        value, end = read_json(text)
    except MalformedError:
        return text
    return text if text[end:].strip() else value


def to_json(value: Any) -> str:
    """Return JSON on one line, with letters as they are."""
    return json.dumps(value, ensure_ascii=False)


def example(tools: Toolbox, name: str = "") -> ToolCall:
    """Return a call that shows the form: of the tool of that name, or else of the first."""
    tool = tools.tools.get(name) or next(iter(tools.tools.values()), None)
    if tool is None:
        return ToolCall("name", {})
    properties = tool.parameters.get("properties", {})
    return ToolCall(
        tool.name, {each: _placeholder(properties.get(each, {})) for each in tool.parameters.get("required", ())}
    )


def _placeholder(schema: Mapping[str, Any]) -> Any:
    if schema.get("enum"):
        return schema["enum"][0]
    return {"integer": 1, "number": 1.5, "boolean": True, "array": [], "object": {}}.get(schema.get("type", ""), "...")


def guarded(text: str, end: str) -> str:
    """Return a result in which nobody can forge its end: a web page may hold the closing tag."""
    return text.replace(end, end.replace("/", "\\/"))
