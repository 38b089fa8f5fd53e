"""The tools of one episode: takes calls, checks and times them, and gives results that a model can read.

Knows nothing of how calls are written in text.
"""

import asyncio
import copy
import inspect
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from agent_gym.errors import ConfigError, ToolError, suggestion
from agent_gym.tools import running
from agent_gym.tools.base import ENGINE_FAILURES, FunctionTool, Tool, as_tools
from agent_gym.tools.calls import ToolCall, ToolResult, ToolStatus
from agent_gym.tools.episode import tools_of
from agent_gym.tools.recording import Entry, Recording, Tape
from agent_gym.tools.running import AbandonedError, Pending
from agent_gym.tools.schema import InvalidArgumentsError
from agent_gym.tools.showing import described, message, shown

_SHOWN_NAME = 80
"""Longest name of a tool that is repeated to a model; it is the model's own text, and may be anything."""

_OURS = (KeyboardInterrupt, asyncio.CancelledError, GeneratorExit)
"""What ends a call from outside, and is no failure of the tool."""


class Toolbox:
    """The tools of one episode.

    A tool object that is given serves as the pattern: the toolbox works on a copy, so that one object can be given to
    many. `fork` gives a toolbox in the same state; neither disturbs the other.

    Args:
        tools: Tools, classes of tools, typed functions, names or references, see `as_tools`.
        max_calls: Calls in one episode, whichever the tool; None for no limit. Tools that end the episode are free.
        timeout: Seconds that no call may exceed, where the tool's own limit is longer.
        max_characters: Longest text of a result; a sentence tells the model how much is missing.
        recording: Where calls and their results are kept or come from; None to run every call and keep none.

    Raises:
        ToolError: Something is no tool, two have the same name, or one cannot be recorded.
        ConfigError: A limit is not positive.
    """

    def __init__(
        self,
        tools: Iterable[Tool | type[Tool] | Callable[..., Any] | str],
        *,
        max_calls: int | None = None,
        timeout: float | None = None,
        max_characters: int = 20_000,
        recording: Recording | None = None,
    ) -> None:
        for name, value in (("max_calls", max_calls), ("timeout", timeout), ("max_characters", max_characters)):
            if value is not None and value <= 0:
                raise ConfigError(f"{name} of a toolbox must be more than 0, not {value}.")
        if isinstance(tools, str | Tool) or not isinstance(tools, Iterable):
            write = "[]" if tools is None else f"[{tools!r}]"
            raise ToolError(f"Tools are given as a list: write {write} in place of {tools!r}.")
        self.tools: dict[str, Tool] = {}
        for tool in (each for given in tools for each in as_tools(given)):
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
        self._tape = Tape(recording) if recording else None
        self._recorded = {name for name, tool in self.tools.items() if recording and recording.covers(tool)}

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
        return "\n".join(described(tool) for tool in self.tools.values())

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
        self._ready = False
        if self._tape:
            self._tape = Tape(self._tape.recording)
        with tools_of(self):
            for tool in self._run_here():
                _set_up(tool)
        self._ready = True

    def close(self) -> None:
        """End the episode: every tool lets go of what it used."""
        self._ready = False
        with ExitStack() as stack:
            for tool in self._run_here():
                stack.callback(tool.close)

    def _run_here(self) -> list[Tool]:
        """Return the tools that run; one whose calls are only replayed does not even begin."""
        replayed = self._recorded if self._tape and self._tape.recording.mode == "replay" else ()
        return [tool for name, tool in self.tools.items() if name not in replayed]

    def fork(self) -> "Toolbox":
        """Return an independent toolbox in the same state, its tools and counters included.

        Raises:
            ToolError: A tool cannot be forked.
        """
        twin = copy.copy(self)
        twin._made = self._made.copy()
        twin.tools = dict(self.tools)
        with tools_of(twin), ExitStack() as undo:
            for tool in self._run_here():
                twin.tools[tool.name] = tool.fork()
                undo.callback(twin.tools[tool.name].close)
            undo.pop_all()
        twin._tape = self._tape.copy(twin.tools) if self._tape else None
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
        entry, known = self._recorded_result(call, tool, arguments)
        if known:
            return known
        for other, earlier in self._owed(tool):
            self._run(ToolCall(other.name), other, earlier)
        result = self._run(call, tool, arguments)
        if entry:
            entry.keep(result)
        return result

    async def call_async(self, call: ToolCall) -> ToolResult:
        """Answer a call as `call` does; one that waits does not keep the event loop from other work."""
        admitted = self._admit(call)
        if isinstance(admitted, ToolResult):
            return admitted
        tool, arguments = admitted
        entry, known = self._recorded_result(call, tool, arguments)
        if known:
            return known
        for other, earlier in self._owed(tool):
            await self._run_async(ToolCall(other.name), other, earlier)
        result = await self._run_async(call, tool, arguments)
        if entry:
            entry.keep(result)
        return result

    def _recorded_result(
        self, call: ToolCall, tool: Tool, arguments: dict[str, Any]
    ) -> "tuple[Entry | None, ToolResult | None]":
        """Return the place of a call in the recording, and the result that is there; None where there is none."""
        if self._tape is None or tool.name not in self._recorded:
            return None, None
        entry = self._tape.next(tool, arguments)
        known = entry.result()
        if known is None:
            return entry, None
        if tool.stateful:
            self._tape.owed.append((tool, arguments))
        return entry, replace(known, id=call.id)

    def _owed(self, tool: Tool) -> list[tuple[Tool, dict[str, Any]]]:
        """Return the calls that a tool must see before it runs: those that the recording answered in its place."""
        return self._tape.pay() if self._tape and tool.stateful else []

    def _run(self, call: ToolCall, tool: Tool, arguments: dict[str, Any]) -> ToolResult:
        started = time.perf_counter()
        try:
            value = self._begin(tool, arguments, threads=self._limit(tool) is not None)
            if isinstance(value, Pending):
                value = value.result()
            return self._result(call, tool, value, started)
        except _OURS:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a tool raises is told to the model
            return self._failure(call, tool, error, started)

    async def _run_async(self, call: ToolCall, tool: Tool, arguments: dict[str, Any]) -> ToolResult:
        started = time.perf_counter()
        try:
            value = self._begin(tool, arguments, threads=True)
            if isinstance(value, Pending):
                value = await value.awaited()
            return self._result(call, tool, value, started)
        except _OURS:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a tool raises is told to the model
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
            return self._refused(call, "invalid", f"{tool.name} was not called: {message(error)}.")
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
        text = str(error) if isinstance(error, ToolError) else f"{tool.name} failed: {message(error)}"
        return ToolResult(tool.name, shown(text, self.max_characters), "error", seconds, id=call.id)

    def _refused(self, call: ToolCall, status: ToolStatus, text: str) -> ToolResult:
        """Return the result of a call that runs nothing."""
        return ToolResult(call.name[:_SHOWN_NAME], shown(text, self.max_characters), status, id=call.id)


def _set_up(tool: Tool) -> None:
    try:
        tool.setup()
    except (*ENGINE_FAILURES, ToolError):
        raise
    except Exception as error:
        raise ToolError(f"The tool {tool.name!r} cannot be set up: {message(error)}.") from error


def _is_async(tool: Tool) -> bool:
    return inspect.iscoroutinefunction(tool.function if isinstance(tool, FunctionTool) else tool.run)
