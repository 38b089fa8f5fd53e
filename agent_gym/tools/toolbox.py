"""The tools of one episode: takes calls, checks and times them, and gives results that a model can read.

Knows nothing of how calls are written in text.
"""

import copy
import inspect
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from pydantic_core import PydanticSerializationError, to_json

from agent_gym.errors import ConfigError, ToolError, suggestion
from agent_gym.sandbox.base import clean
from agent_gym.tools import running
from agent_gym.tools.base import ENGINE_FAILURES, FunctionTool, Tool, as_tool
from agent_gym.tools.calls import ToolCall, ToolResult, ToolStatus
from agent_gym.tools.running import AbandonedError, Pending
from agent_gym.tools.schema import InvalidArgumentsError

_SHOWN_NAME = 80
"""Longest name of a tool that is repeated to a model; it is the model's own text, and may be anything."""
_SHOWN_MESSAGE = 2_000
"""Longest message of an error that a model reads."""


class Toolbox:
    """The tools of one episode.

    A tool object that is given serves as the pattern: the toolbox works on a copy, so that one object can be given to
    many. `fork` gives a toolbox in the same state; neither disturbs the other.

    Args:
        tools: Tools, classes of tools, typed functions, names or references, see `as_tool`.
        max_calls: Calls in one episode, whichever the tool; None for no limit. Tools that end the episode are free.
        timeout: Seconds that no call may exceed, where the tool's own limit is longer.
        max_characters: Longest text of a result; a sentence tells the model how much is missing.

    Raises:
        ToolError: Something is no tool, or two have the same name.
        ConfigError: A limit is not positive.
    """

    def __init__(
        self,
        tools: Iterable[Tool | type[Tool] | Callable[..., Any] | str],
        *,
        max_calls: int | None = None,
        timeout: float | None = None,
        max_characters: int = 20_000,
    ) -> None:
        for name, value in (("max_calls", max_calls), ("timeout", timeout), ("max_characters", max_characters)):
            if value is not None and value <= 0:
                raise ConfigError(f"{name} of a toolbox must be more than 0, not {value}.")
        self.tools: dict[str, Tool] = {}
        for given in tools:
            tool = as_tool(given)
            if tool.name in self.tools:
                raise ToolError(f"Two tools have the name {tool.name!r}: give one of them another name.")
            self.tools[tool.name] = tool if isinstance(tool, FunctionTool) else copy.copy(tool)
        self.max_calls = max_calls
        self.timeout = timeout
        self.max_characters = max_characters
        self.abandoned = 0
        """Calls of this toolbox that did not answer in time and whose thread was left behind."""
        self._made: Counter[str] = Counter()
        self._ready = False

    # -- what the model is told ------------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tools, in the order given."""
        return tuple(self.tools)

    @property
    def blocking(self) -> bool:
        """Whether a call may wait for another process or the network."""
        return any(tool.blocking for tool in self.tools.values())

    @property
    def calls_made(self) -> int:
        """Calls of the episode that reached a tool."""
        return sum(self._made.values())

    def schemas(self) -> list[dict[str, Any]]:
        """Return the tools as OpenAI's "tools" and chat templates want them."""
        return [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
            }
            for tool in self.tools.values()
        ]

    def describe(self) -> str:
        """Return the tools as text: for each its name, parameters and description."""
        return "\n".join(_described(tool) for tool in self.tools.values())

    def text_parameter(self, name: str) -> str | None:
        """Return the parameter of a tool that a bare text goes to; None where there is no such tool or parameter."""
        tool = self.tools.get(name)
        return tool.text_parameter if tool else None

    # -- an episode ------------------------------------------------------------------------------------------------

    def setup(self) -> None:
        """Begin an episode: every tool makes its state anew, and no calls have been made.

        Raises:
            ToolError: A tool cannot be set up.
            WorkerError: A sandbox or a worker failed.
        """
        self._made.clear()
        self._ready = True
        for tool in self.tools.values():
            try:
                tool.setup()
            except (*ENGINE_FAILURES, ToolError):
                raise
            except Exception as error:
                raise ToolError(f"The tool {tool.name!r} cannot be set up: {_message(error)}.") from error

    def close(self) -> None:
        """End the episode: every tool lets go of what it used."""
        self._ready = False
        with ExitStack() as stack:
            for tool in self.tools.values():
                stack.callback(tool.close)

    def fork(self) -> "Toolbox":
        """Return an independent toolbox in the same state, its tools and counters included.

        Raises:
            ToolError: A tool cannot be forked.
        """
        twin = copy.copy(self)
        twin._made = self._made.copy()
        twin.tools = {name: tool.fork() for name, tool in self.tools.items()}
        return twin

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- calls -----------------------------------------------------------------------------------------------------

    def call(self, call: ToolCall) -> ToolResult:
        """Answer a call.

        A tool that is `blocking` runs in a thread, which is left behind when its time is over; an `async` one runs on
        an event loop that all of them share, and is cancelled. Any other runs here and now, and has no time-out: no
        Python code can be stopped from outside.

        Returns:
            The result; whatever the model or the tool did wrong is told in its text.

        Raises:
            WorkerError: A sandbox or a worker failed, which is never the model's fault.
        """
        admitted = self._admit(call)
        if isinstance(admitted, ToolResult):
            return admitted
        tool, arguments = admitted
        started = time.perf_counter()
        try:
            value = self._begin(tool, arguments, threads=self._limit(tool) is not None)
            if isinstance(value, Pending):
                value = value.result()
            return self._result(call, tool, value, started)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a tool raises is told to the model
            return self._failure(call, tool, error, started)

    async def call_async(self, call: ToolCall) -> ToolResult:
        """Answer a call as `call` does; one that waits does not keep the event loop from other work."""
        admitted = self._admit(call)
        if isinstance(admitted, ToolResult):
            return admitted
        tool, arguments = admitted
        started = time.perf_counter()
        try:
            value = self._begin(tool, arguments, threads=True)
            if isinstance(value, Pending):
                value = await value.awaited()
            return self._result(call, tool, value, started)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a tool raises is told to the model
            return self._failure(call, tool, error, started)

    def _admit(self, call: ToolCall) -> "ToolResult | tuple[Tool, dict[str, Any]]":
        """Return the tool and the checked arguments, or the result of a call that runs nothing."""
        if not self._ready:
            self.setup()
        if call.problem:
            return self._refused(call, "invalid", call.problem)
        tool = self.tools.get(call.name)
        if tool is None:
            name = call.name[:_SHOWN_NAME]
            return self._refused(call, "unknown", f"There is no tool {name!r}{suggestion(name, self.tools)}")
        if spent := self._spent(tool):
            return self._refused(call, "budget", spent)
        try:
            arguments = tool.arguments.check(call.arguments)
        except InvalidArgumentsError as error:
            return self._refused(call, "invalid", f"{tool.name} was not called: {error}.")
        except Exception as error:  # noqa: BLE001 - a check that the tool's author wrote
            return self._refused(call, "invalid", f"{tool.name} was not called: {_message(error)}.")
        self._made[tool.name] += 1
        return tool, arguments

    def _spent(self, tool: Tool) -> str:
        """Return which budget is used up, in words for the model, or nothing."""
        if tool.max_calls is not None and self._made[tool.name] >= tool.max_calls:
            return f"No calls of {tool.name} are left: an episode has {tool.max_calls}."
        if self.max_calls is not None and not tool.final and self.calls_made >= self.max_calls:
            return f"No tool calls are left: an episode has {self.max_calls}."
        return ""

    def _limit(self, tool: Tool) -> float | None:
        """Return the seconds that a call may take; None where the tool looks after that itself."""
        if tool.timeout is None or self.timeout is None:
            return tool.timeout
        return min(tool.timeout, self.timeout)

    def _begin(self, tool: Tool, arguments: dict[str, Any], *, threads: bool) -> Any:
        """Run a tool; return its value, or a `Pending` where that must be waited for."""
        if threads and tool.blocking and not _is_async(tool):
            return running.in_thread(tool.run, arguments, self._limit(tool))
        value = tool.run(**arguments)
        return running.on_loop(value, self._limit(tool)) if inspect.iscoroutine(value) else value

    def _result(self, call: ToolCall, tool: Tool, value: Any, started: float) -> ToolResult:
        """Return what the tool gave, as the model reads it."""
        given = value if isinstance(value, ToolResult) else None
        text = shown(given.text if given else value, self.max_characters)
        status: ToolStatus = given.status if given else "ok"
        final = tool.final and status == "ok"
        return ToolResult(tool.name, text, status, time.perf_counter() - started, final, call.id)

    def _failure(self, call: ToolCall, tool: Tool, error: BaseException, started: float) -> ToolResult:
        """Return how the tool failed, as the model reads it.

        Raises:
            WorkerError: It was not the tool that failed.
        """
        if isinstance(error, ENGINE_FAILURES):
            raise error
        seconds = time.perf_counter() - started
        limit = self._limit(tool)
        if isinstance(error, TimeoutError) and limit is not None and seconds >= limit:
            self.abandoned += isinstance(error, AbandonedError)
            return ToolResult(
                tool.name, f"{tool.name} did not answer within {limit:g} s.", "timeout", seconds, id=call.id
            )
        text = str(error) if isinstance(error, ToolError) else f"{tool.name} failed: {_message(error)}"
        return ToolResult(tool.name, shown(text, self.max_characters), "error", seconds, id=call.id)

    def _refused(self, call: ToolCall, status: ToolStatus, text: str) -> ToolResult:
        """Return the result of a call that runs nothing."""
        return ToolResult(call.name[:_SHOWN_NAME], shown(text, self.max_characters), status, id=call.id)


def shown(value: Any, max_characters: int) -> str:
    """Return a value as a model reads it: a text as it is, anything else as JSON; without what a terminal would obey.

    Args:
        value: What a tool gave.
        max_characters: A longer text loses its middle; a sentence there tells how much is missing.
    """
    text = value if isinstance(value, str) else _as_json(value)
    missing = len(text) - max_characters
    if missing <= 0:
        return _cleaned(text)
    # The end is kept as well: there a program says how it failed.
    tail = max_characters // 4
    head = max_characters - tail
    return f"{_cleaned(text[:head])}\n[Cut here: {missing:,} more characters.]\n{_cleaned(text[len(text) - tail :])}"


def _cleaned(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return clean(text.encode("utf-8", "replace"))


def _as_json(value: Any) -> str:
    try:
        return to_json(value, serialize_unknown=True).decode()
    except (PydanticSerializationError, ValueError, RecursionError):
        # Broken characters, or a value that holds itself.
        return repr(value)


def _message(error: BaseException) -> str:
    """Return the kind of an error and what it says."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - the error is somebody else's, and may break even here
        message = ""
    return f"{type(error).__name__}: {message[:_SHOWN_MESSAGE]}" if message else type(error).__name__


def _is_async(tool: Tool) -> bool:
    return inspect.iscoroutinefunction(tool.function if isinstance(tool, FunctionTool) else tool.run)


def _described(tool: Tool) -> str:
    """Return one tool as text: its signature, what it does, and what its parameters mean."""
    properties: Mapping[str, Any] = tool.parameters.get("properties", {})
    required = tool.parameters.get("required", ())
    signature = ", ".join(
        f"{name}: {_type(each)}{'' if name in required else '?'}" for name, each in properties.items()
    )
    lines = [f"{tool.name}({signature}): {tool.description}"]
    lines += [f"  {name}: {each['description']}" for name, each in properties.items() if each.get("description")]
    return "\n".join(lines)


def _type(schema: Mapping[str, Any]) -> str:
    """Return a short word for a JSON schema."""
    if "enum" in schema:
        return " | ".join(json.dumps(choice, ensure_ascii=False) for choice in schema["enum"])
    if "anyOf" in schema:
        return " | ".join(_type(choice) for choice in schema["anyOf"])
    return str(schema.get("type", "any"))
