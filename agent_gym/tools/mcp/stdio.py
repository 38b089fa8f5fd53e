"""A tool server that runs as a process of ours: JSON lines on its standard input and output.

The client in the `mcp` package keeps a line of any length and passes on what the server writes to standard error; this
one bounds what it keeps, and remembers what the server complained about, so that an error can say it. Knows nothing of
tools.
"""

import asyncio
import logging
import os
import re
import shlex
import signal
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from mcp_types import PARSE_ERROR, ErrorData, JSONRPCError, jsonrpc_message_adapter

from agent_gym.sandbox.base import clean

if TYPE_CHECKING:
    from mcp.client import Transport

_log = logging.getLogger(__name__)

Streams = tuple[MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]]

MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""An answer that is longer is thrown away while it is read."""
_KEPT_BYTES = 2048
"""Of standard error, of a line that is no message, and of each end of a line that is too long."""
_WAITING_LINES = 64
"""So many lines may wait to be understood before the server has to wait as well."""
_GRACE_SECONDS = 2.0
"""For the server to end after its input was closed, and again after it was asked to."""

# An answer begins or ends with its id, whichever way its server orders the keys; in its strings, quotes are escaped.
_ID_FIRST = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"id"\s*:\s*(\d{1,18})\s*,')
_ID_LAST = re.compile(rb'(?<!\\)"id"\s*:\s*(\d{1,18})\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*$')


@dataclass(frozen=True, slots=True)
class Line:
    """A line that the server wrote, or the two ends of one that was too long to keep."""

    head: bytes
    tail: bytes | None = None

    @property
    def request(self) -> int | None:
        """The id of the request that it answers, as far as it can be told without understanding the line."""
        found = _ID_FIRST.match(self.head) or _ID_LAST.search((self.tail or self.head)[-_KEPT_BYTES:])
        return int(found[1]) if found else None


class Lines:
    """Cuts a stream of bytes into lines, and keeps only the two ends of a line that is too long.

    Args:
        limit: The longest line that is kept, in bytes.
    """

    def __init__(self, limit: int = MAX_ANSWER_BYTES) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._head: bytes | None = None

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """Take bytes; yield the lines that end in them."""
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            self._add(end)
            yield self._take()
        self._add(rest)

    def _add(self, piece: bytes) -> None:
        self._buffer += piece
        if len(self._buffer) > (self._limit if self._head is None else _KEPT_BYTES):
            self._head = self._head or bytes(self._buffer[:_KEPT_BYTES])
            del self._buffer[:-_KEPT_BYTES]

    def _take(self) -> Line:
        line = Line(bytes(self._buffer)) if self._head is None else Line(self._head, bytes(self._buffer))
        self._buffer.clear()
        self._head = None
        return line


class _Pipes(asyncio.SubprocessProtocol):
    """What comes out of the process, as it comes."""

    def __init__(self) -> None:
        self.lines: asyncio.Queue[Line | None] = asyncio.Queue()
        self.complaints = bytearray()
        self.exited = asyncio.Event()
        self.silent = asyncio.Event()
        self.discarding = False
        self._cutter = Lines()
        self._transport: asyncio.SubprocessTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        assert isinstance(data, bytes)
        if fd == 2:
            self.complaints += data
            del self.complaints[:-_KEPT_BYTES]
        elif not self.discarding:
            for line in self._cutter.feed(data):
                self.lines.put_nowait(line)
            if self.lines.qsize() > _WAITING_LINES:
                self._output.pause_reading()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self.lines.put_nowait(None)
        elif fd == 2:
            self.silent.set()

    def process_exited(self) -> None:
        self.exited.set()

    async def line(self) -> Line | None:
        """Return the next line, None where the server has closed its output."""
        line = await self.lines.get()
        if self.lines.qsize() == _WAITING_LINES:
            self._output.resume_reading()
        return line

    def discard(self) -> None:
        """Read and forget from now on: a server that is stuck writing would not see that its input is closed."""
        self.discarding = True
        self._output.resume_reading()

    @property
    def _output(self) -> asyncio.ReadTransport:
        return cast("asyncio.ReadTransport", self._transport.get_pipe_transport(1))


class ServerProcess:
    """A process that speaks MCP over its standard streams, in a process group and with an environment of its own.

    Args:
        command: The program and its arguments.
        env: Environment variables, over the few that `mcp` hands on (HOME, PATH, USER and the like).
        cwd: The working folder; ours if None.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path | None) -> None:
        self._command = list(command)
        self._env = get_default_environment() | dict(env)
        self._cwd = cwd
        self._complaints = b""
        self._stray = b""
        self._exit_code: int | None = None

    @property
    def name(self) -> str:
        """The command, as it would be typed."""
        return repr(shlex.join(self._command))

    @property
    def trouble(self) -> str:
        """What is known of why it does not work, as clauses; "" if nothing is."""
        known = []
        if self._exit_code is not None:
            known.append(f"its process ended with code {self._exit_code}")
        if said := _last_line(self._complaints):
            known.append(f"it said {said!r}")
        if stray := _last_line(self._stray):
            known.append(f"it wrote {stray!r} to standard output, which is for the protocol alone")
        return ", and ".join(known)

    def ways(self, ended: asyncio.Event) -> "Iterator[tuple[str, Transport]]":
        """Yield the ways to speak with it, each with a process of its own: with a handshake, else as it wishes.

        Args:
            ended: Set as soon as the server has closed its output.
        """
        yield "legacy", self._transport(ended)
        yield "auto", self._transport(ended)

    @asynccontextmanager
    async def _transport(self, ended: asyncio.Event) -> AsyncIterator[Streams]:
        """Start the process, and end it and its children on the way out.

        Raises:
            OSError: It cannot be started.
        """
        loop = asyncio.get_running_loop()
        process, pipes = await loop.subprocess_exec(
            _Pipes, *self._command, env=self._env, cwd=self._cwd, start_new_session=True
        )
        to_us, ours = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        theirs, to_server = anyio.create_memory_object_stream[SessionMessage](0)
        try:
            async with anyio.create_task_group() as tasks, to_us, ours, theirs, to_server:
                tasks.start_soon(self._read, pipes, to_us, ended)
                tasks.start_soon(_write, process, to_server)
                yield ours, theirs
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await _end(process, pipes)
            self._exit_code = process.get_returncode()
            self._complaints = bytes(pipes.complaints)

    async def _read(
        self, pipes: _Pipes, to_us: MemoryObjectSendStream[SessionMessage | Exception], ended: asyncio.Event
    ) -> None:
        async with to_us:
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # nobody listens any more
                while (line := await pipes.line()) is not None:
                    if message := self._understand(line):
                        await to_us.send(message)
        ended.set()

    def _understand(self, line: Line) -> SessionMessage | None:
        """Return the message; where it cannot be read but answers a request, an error in its place, else None."""
        if line.tail is not None:
            problem = f"its answer is longer than {MAX_ANSWER_BYTES} bytes"
        elif not line.head.strip():
            return None
        else:
            try:
                return SessionMessage(jsonrpc_message_adapter.validate_json(line.head, by_name=False))
            except ValueError:
                problem = "its answer is not valid JSON of the protocol"
                self._stray = line.head[:_KEPT_BYTES]
                _log.debug("a line of %s is no message: %r", self._command[0], self._stray)
        if line.request is None:
            return None
        return SessionMessage(
            JSONRPCError(jsonrpc="2.0", id=line.request, error=ErrorData(code=PARSE_ERROR, message=problem))
        )


async def _write(process: asyncio.SubprocessTransport, to_server: MemoryObjectReceiveStream[SessionMessage]) -> None:
    pipe = cast("asyncio.WriteTransport", process.get_pipe_transport(0))
    async for message in to_server:
        pipe.write(message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")


async def _end(process: asyncio.SubprocessTransport, pipes: _Pipes) -> None:
    """End the server: close its input, then ask it, then kill it; what is left of its group is killed in any case."""
    pipes.discard()
    cast("asyncio.WriteTransport", process.get_pipe_transport(0)).close()
    if not await _within_grace(pipes.exited):
        _signal(process, signal.SIGTERM)
        await _within_grace(pipes.exited)
    _signal(process, signal.SIGKILL)
    await _within_grace(pipes.exited)
    await _within_grace(pipes.silent)
    process.close()


async def _within_grace(event: asyncio.Event) -> bool:
    with anyio.move_on_after(_GRACE_SECONDS):
        await event.wait()
    return event.is_set()


def _signal(process: asyncio.SubprocessTransport, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.get_pid(), number)


def _last_line(said: bytes) -> str:
    lines = [line for line in clean(said).splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else ""
