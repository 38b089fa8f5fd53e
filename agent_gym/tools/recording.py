"""Recordings of tool traffic: a run with web searches repeats offline, for nothing, and with the same results.

A recording is a file of JSON lines. Any number of processes may add to it at once, and one that is killed leaves at
worst a broken line, which is passed over.
"""

import hashlib
import json
import os
import threading
import weakref
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic_core import to_jsonable_python

from agent_gym.errors import ToolError, UnknownIdError
from agent_gym.tools.base import NotRecordedError, Tool
from agent_gym.tools.calls import ToolResult, ToolStatus

MODES = ("auto", "record", "replay")
Mode = Literal["auto", "record", "replay"]

_STATUSES = get_args(ToolStatus)
_SHOWN = 200
"""Longest call that is told in an error."""


class Recording:
    """Calls of tools and their results, in a file.

    A call is known by the tool, its arguments, and how many times it was made in the episode before: where a repeated
    call got another result, that comes back too. Calls of a tool with a state are known by all calls that the stateful
    tools of the episode answered before, so that they are right after any history, and after a fork.

    Tools that end the episode are never recorded. Neither are failures of sandboxes and workers.

    Args:
        path: The file; made if it is not there, but for replay.
        mode: "record" runs every call and keeps its result, "replay" runs none, "auto" runs those that are not known.
        history: Whether tools with a state may be recorded.
        tools: Only the tools of these names; all by default.

    Raises:
        UnknownIdError: There is no such mode.
        ToolError: The file cannot be read.
    """

    def __init__(
        self, path: str | Path, *, mode: Mode = "auto", history: bool = False, tools: Collection[str] | None = None
    ) -> None:
        if mode not in MODES:
            raise UnknownIdError.of("recording mode", mode, MODES)
        self.path = Path(path)
        self.mode = mode
        self.history = history
        self.tools = tools
        self._lock = threading.Lock()
        self._results: dict[str, tuple[str, ToolStatus]] = {}
        self._read_to = 0
        if mode == "replay" and not self.path.is_file():
            raise ToolError(f"There is no recording {self.path}: make one with the mode 'record'.")
        self._read_on()

    @classmethod
    def at(cls, path: str | Path, *, mode: Mode = "auto", history: bool = False) -> "Recording":
        """Return the recording of a file; the environments of a process share one, and so hold it once."""
        key = (str(Path(path).absolute()), mode, history)
        with _open_lock:
            recording = _open.get(key)
            if recording is None:
                recording = _open[key] = cls(path, mode=mode, history=history)
            return recording

    def covers(self, tool: Tool) -> bool:
        """Return whether calls of a tool are recorded.

        Raises:
            ToolError: Its answers depend on the calls before, and `history` is not set.
        """
        if tool.final or (self.tools is not None and tool.name not in self.tools):
            return False
        if tool.stateful and not self.history:
            raise ToolError(
                f"The tool {tool.name!r} keeps a state from call to call, so that a result is right only after the "
                "same calls: record it with history=True."
            )
        return True

    def find(self, key: str, times: int) -> tuple[str, ToolStatus] | None:
        """Return the text and status of a call that was made `times` times before in the episode; None if unknown."""
        with self._lock:
            for attempt in (1, 2):
                for earlier in range(times, -1, -1):
                    found = self._results.get(f"{key}:{earlier}")
                    if found is not None:
                        return found
                if attempt == 1 and not self._read_on():
                    break
        return None

    def keep(self, key: str, times: int, call: Mapping[str, Any], result: ToolResult) -> None:
        """Add a result to the file.

        Args:
            key: Of the call.
            times: How many times it was made in the episode before.
            call: What a reader of the file wants to see of it.
            result: What the tool gave.

        Raises:
            ToolError: The file cannot be written.
        """
        if self.find(key, times) == (result.text, result.status):
            return
        entry = {"key": f"{key}:{times}", **call, "status": result.status, "text": result.text}
        # A line break before as well: the last line may be the half of one, left by a process that was killed.
        line = f"\n{json.dumps(entry)}\n".encode()
        with self._lock:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                # One write to a file that is open for appending: processes do not write into each other's lines.
                descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
                try:
                    written = os.write(descriptor, line)
                finally:
                    os.close(descriptor)
            except OSError as error:
                raise ToolError(
                    f"The recording {self.path} cannot be written: {error.strerror}; choose another path."
                ) from error
            if written < len(line):
                raise ToolError(f"The recording {self.path} cannot be written: free some space on its disk.")
            self._results[entry["key"]] = (result.text, result.status)

    def _read_on(self) -> bool:
        """Read what was added to the file, by whichever process; return whether that was anything."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._read_to)
                added = file.read()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise ToolError(
                f"The recording {self.path} cannot be read: {error.strerror}; choose another path."
            ) from error
        complete = added.rfind(b"\n") + 1
        self._read_to += complete
        for line in added[:complete].splitlines():
            self._read(line)
        return complete > 0

    def _read(self, line: bytes) -> None:
        """Take in a line; one that was not written to its end is passed over."""
        try:
            entry = json.loads(line)
            key, text, status = entry["key"], entry["text"], entry["status"]
        except (ValueError, KeyError, TypeError):
            return
        if isinstance(key, str) and isinstance(text, str) and status in _STATUSES:
            self._results[key] = (text, status)


@dataclass
class Tape:
    """What the calls of one episode are in a recording.

    Args:
        recording: The recording.
    """

    recording: Recording
    times: Counter[str] = field(default_factory=Counter)
    """How often each call was made, by key."""
    past: str = ""
    """Stands for all calls that tools with a state have answered."""
    owed: list[tuple[Tool, dict[str, Any]]] = field(default_factory=list)
    """Calls that the recording answered and that a tool with a state has not seen; it must, before it answers one."""

    def copy(self, tools: Mapping[str, Tool]) -> "Tape":
        """Return the same for a fork with these tools."""
        owed = [(tools[tool.name], arguments) for tool, arguments in self.owed]
        return Tape(self.recording, self.times.copy(), self.past, owed)

    def next(self, tool: Tool, arguments: dict[str, Any]) -> "Entry":
        """Return the place of the next call of the episode."""
        told = _canonical(arguments)
        key = _digest(tool.name, told, self.past if tool.stateful else "")
        entry = Entry(self.recording, tool.name, told, key, self.times[key])
        self.times[key] += 1
        if tool.stateful:
            self.past = key
        return entry

    def pay(self) -> list[tuple[Tool, dict[str, Any]]]:
        """Return the calls that tools with a state have yet to see, and forget them."""
        owed, self.owed = self.owed, []
        return owed


@dataclass(frozen=True)
class Entry:
    """The place of one call in a recording."""

    recording: Recording
    tool: str
    arguments: str
    """As JSON."""
    key: str
    times: int

    def result(self) -> ToolResult | None:
        """Return what was recorded; None where the call is to be run.

        Raises:
            NotRecordedError: It is not known, and calls are only replayed.
        """
        recording = self.recording
        found = None if recording.mode == "record" else recording.find(self.key, self.times)
        if found is None and recording.mode == "replay":
            call = f"{self.tool}({self.arguments})"
            told = call if len(call) <= _SHOWN else call[:_SHOWN] + "..."
            raise NotRecordedError(
                f"The recording {recording.path} lacks the call {told}: record it with the mode 'auto' or 'record'."
            )
        return ToolResult(self.tool, found[0], found[1]) if found is not None else None

    def keep(self, result: ToolResult) -> None:
        """Record the result of the call.

        Raises:
            ToolError: The file cannot be written.
        """
        self.recording.keep(self.key, self.times, {"tool": self.tool, "arguments": self.arguments}, result)


def _canonical(arguments: dict[str, Any]) -> str:
    """Return arguments as JSON that is the same for the same arguments."""
    try:
        plain = to_jsonable_python(arguments, serialize_unknown=True)
        return json.dumps(plain, sort_keys=True)
    except (ValueError, TypeError, RecursionError):
        return repr(arguments)


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


_open: "weakref.WeakValueDictionary[tuple[str, str, bool], Recording]" = weakref.WeakValueDictionary()
_open_lock = threading.Lock()


def record(path: str | Path, **options: Any) -> Recording:
    """Return a recording that runs and keeps every call: `Toolbox(tools, recording=record("web.jsonl"))`."""
    return Recording(path, mode="record", **options)


def replay(path: str | Path, **options: Any) -> Recording:
    """Return a recording that runs no call: `Toolbox(tools, recording=replay("web.jsonl"))`.

    Raises:
        ToolError: There is no such file.
    """
    return Recording(path, mode="replay", **options)
