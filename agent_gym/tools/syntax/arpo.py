r"""Tags named like the tools: <search>..</search>, <python>..</python>, and <answer>, as ARPO and its kin write them.

Dong et al., 2025 (arXiv 2507.19849): the model thinks in <think>, calls one tool, reads <result>, and so on; the answer
ends with \boxed{}.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

from agent_gym.errors import ToolError
from agent_gym.tools.calls import ToolCall, ToolResult
from agent_gym.tools.syntax.base import (
    MalformedError,
    Parsed,
    Reading,
    ToolSyntax,
    example,
    from_text,
    guarded,
    read_json,
    to_json,
)
from agent_gym.tools.toolbox import Toolbox

_RESERVED = ("answer", "result", "think")
"""Tags with a meaning of their own; a tool of such a name cannot be called."""


class ArpoSyntax(ToolSyntax):
    r"""`<search> Rome </search>`: the tag is the tool, and what it holds is the tool's one text; one call at a time.

    A tool that needs more than one argument gets JSON of all of them. The answer is what stands in the last \boxed{}
    of `<answer>`, or all of it where there is no box.
    """

    name: ClassVar[str] = "arpo"
    stop: ClassVar[tuple[str, ...]] = ("</answer>", "<result>")

    def stops(self, toolbox: Toolbox) -> tuple[str, ...]:
        """See `ToolSyntax.stops`."""
        return (*(f"</{name}>" for name in _callable(toolbox)), *self.stop)

    def instructions(self, toolbox: Toolbox) -> str:
        """See `ToolSyntax.instructions`."""
        forms = "\n".join(self._form(toolbox, name) for name in _callable(toolbox))
        return (
            "First think about the reasoning process, then provide the answer. During thinking, you can call these "
            f"tools if needed, one at a time:\n{forms}\n"
            "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags "
            "respectively, and the result of a call within <result> </result> tags. For example, "
            f"<think> This is the reasoning process. </think> {self._sample(toolbox)} <result> result here </result> "
            "<think> This is the reasoning process. </think> "
            "<answer> The final answer is \\[ \\boxed{answer here} \\] </answer>. In the last part of the answer, the "
            "final exact answer is enclosed within \\boxed{} with latex format."
        )

    def parse(self, text: str, tools: Toolbox) -> Parsed:
        """See `ToolSyntax.parse`."""
        reading = Reading(text)
        marks = _marks(_callable(tools))
        while mark := reading.next(marks):
            self._block(reading, mark[1], tools)
        parsed = reading.parsed()
        return Parsed(self.alone(parsed.calls, tools), parsed.answer, parsed.thought, parsed.content)

    def show(self, results: Sequence[ToolResult]) -> str:
        """See `ToolSyntax.show`."""
        return "\n".join(f"<result>\n{guarded(result.text, '</result>')}\n</result>" for result in results)

    def write(self, call: ToolCall) -> str:
        """See `ToolSyntax.write`."""
        if call.name in _RESERVED:
            raise ToolError(f"A tool named {call.name!r} cannot be called in the syntax 'arpo': give it another name.")
        body = _body(call)
        lines = "\n" in body or body != body.strip()
        return f"<{call.name}>\n{body}\n</{call.name}>" if lines else f"<{call.name}> {body} </{call.name}>"

    def _block(self, reading: Reading, name: str, tools: Toolbox) -> None:
        """Read what stands behind an opening tag, and go behind the closing one."""
        text, start, opening = reading.text, reading.position, f"<{name}>"
        end, think = reading.find(f"</{name}>"), reading.find("</think>")
        if think >= 0 and (end < 0 or text.find(opening, think, end) >= 0):
            # The model thinks aloud about the tags; the thought was opened before the generation.
            reading.position = think
            return
        reading.position = len(text) if end < 0 else end + len(opening) + 1
        if name == "answer" and end >= 0:
            reading.answer = _answer(text[start:end]) if not reading.calls else None
        elif reading.answer is None and len(reading.calls) < 2:
            reading.calls.append(self._call(text, start, end, name, tools))

    def _call(self, text: str, start: int, end: int, name: str, tools: Toolbox) -> ToolCall:
        if end < 0:
            return self.problem(f"This was cut off before </{name}>.", tools, name)
        if text.find(f"<{name}>", start, end) >= 0:
            return self.problem("This is a call inside another one.", tools, name)
        try:
            return ToolCall(name, _arguments(_inner(text[start:end]), tools, name))
        except MalformedError as error:
            return self.problem(str(error), tools, name)

    def _form(self, toolbox: Toolbox, name: str) -> str:
        """Return one line that tells how a tool is called and what it does."""
        tool = toolbox.tools[name]
        parameter = tool.text_parameter
        body = f" {parameter} here " if parameter else _body(example(toolbox, name))
        return f"<{name}>{body}</{name}>: {' '.join(tool.description.split())}"

    def _sample(self, toolbox: Toolbox) -> str:
        names = _callable(toolbox)
        return f"<{names[0]}> {toolbox.text_parameter(names[0]) or '...'} here </{names[0]}>" if names else ""


def boxed(text: str) -> str | None:
    r"""Return what stands in the last \boxed{} of a text; None where there is none, or it is not closed."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start : brace.start()].strip()
    return None


_BRACE = re.compile(r"[{}]")


def _answer(text: str) -> str:
    inside = boxed(text)
    return text.strip() if inside is None else inside


def _callable(toolbox: Toolbox) -> tuple[str, ...]:
    return tuple(name for name in toolbox.names if name not in _RESERVED)


@lru_cache(maxsize=64)
def _marks(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(f"</?think>|<({'|'.join(['answer', *map(re.escape, names)])})>")


def _inner(text: str) -> str:
    """Return what a tag holds: lines exactly as they are, one line without the spaces at its ends."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == "\n" else text.strip()


def _arguments(body: str, tools: Toolbox, name: str) -> Mapping[str, Any]:
    """Return the arguments that a tag holds: JSON of them, or one text.

    Raises:
        MalformedError: The tool needs more than a text, and this is no JSON.
    """
    tool = tools.tools[name]
    parameter = tool.text_parameter
    given = _json_object(body)
    needs_none = not tool.parameters.get("required")
    known = tool.parameters.get("properties", {}).keys()
    if given is not None and (given or needs_none) and (parameter is None or given.keys() <= known):
        return given
    if not body.strip() and needs_none:
        return {}
    if parameter is None:
        raise MalformedError(f"The arguments of {name} must be a JSON object.")
    return {parameter: from_text(body, tools, name, parameter)}


def _body(call: ToolCall) -> str:
    """Return what the tag of a call holds; JSON wherever a plain text would be read as something else."""
    values = list(call.arguments.values())
    if not values:
        return ""
    text = values[0]
    tags = (f"<{call.name}>", f"</{call.name}>")
    plain = len(values) == 1 and isinstance(text, str) and text.strip() and _json_object(text) is None
    if plain and not any(tag in text for tag in tags):
        return str(text)
    return to_json(dict(call.arguments)).replace("<", "\\u003c")


def _json_object(text: str) -> dict[str, Any] | None:
    if not text.lstrip().startswith("{"):
        return None
    try:
        value, end = read_json(text)
    except MalformedError:
        return None
    return value if isinstance(value, dict) and not text[end:].strip() else None
