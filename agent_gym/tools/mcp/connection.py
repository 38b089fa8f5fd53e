"""One connection with one tool server, which lives in a thread with an event loop of its own.

The protocol is asynchronous and tools are called from anywhere: a call is handed to the connection's loop, and waited
for where it came from. Knows nothing of episodes.
"""

import asyncio
import atexit
import hashlib
import logging
import os
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import mcp_types as types
from mcp import Client, MCPError
from mcp.client import IncomingMessage, Transport

import agent_gym
from agent_gym.errors import ForkDiverged, ToolError, WorkerError
from agent_gym.tools.mcp.content import ENGINE_FAILURE, as_text

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_PROBE_SECONDS = 5.0
"""A server that has let a call wait for too long, and then does not even list its tools for so long, is given up."""
_CLOSE_SECONDS = 12.0
"""Longer than any server takes to be ended."""
_LAST_SECONDS = 1.0
_PAGES = 100
"""Of a list of tools, which might have no end."""


class Lost(Exception):  # noqa: N818 - the connection is what is lost
    """The connection ended before the answer came."""


class Server(Protocol):
    """Where a server is, and the ways to reach it."""

    @property
    def name(self) -> str:
        """What it is called in errors."""

    @property
    def trouble(self) -> str:
        """What is known of why it does not work; "" if nothing is."""

    def ways(self, ended: asyncio.Event) -> Iterator[tuple[str, Transport]]:
        """Yield the ways to reach it, as a mode of the client and a transport, the likeliest first.

        Args:
            ended: Set by the transport when the server is gone.
        """


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered to a call."""

    text: str
    failed: bool = False

    @property
    def fingerprint(self) -> bytes:
        """The same for the same answer; answers may be too long to keep."""
        return hashlib.sha256(f"{self.failed}{self.text}".encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True, slots=True)
class PastCall:
    """A call that was answered."""

    name: str
    arguments: Mapping[str, Any]
    fingerprint: bytes


class Connection:
    """A session with a server; it begins when it is made, and ends when it is closed or the server is gone.

    Args:
        server: The server.
        start_timeout: Seconds that the server has to start and to say what tools it has.
        past: Calls to make at once, which bring the server to the state that it had after them.
        remember: Whether calls are taken one by one and kept in `past`, for another connection.

    Raises:
        ToolError: The server cannot be used.
        ForkDiverged: A call of the past was answered in another way than then.
    """

    def __init__(
        self, server: Server, *, start_timeout: float, past: Sequence[PastCall] = (), remember: bool = False
    ) -> None:
        self.tools: dict[str, types.Tool] = {}
        """What the server offers, by its own names."""
        self.stale = False
        """Whether the server has said that its tools have changed since."""
        self.past: list[PastCall] = []
        """The calls that were answered, if it remembers them."""
        self.unsure = False
        """Whether a call was given up, so that nobody knows what it did."""
        self.server = server
        """With what it noted of what went wrong."""
        self._start_timeout = start_timeout
        self._remember = remember
        self._owner = os.getpid()
        self._client: Client | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()
        self._turn = asyncio.Lock()
        self._lock = threading.Lock()
        self._waiting: set[Future[Any]] = set()
        self._probes: set[asyncio.Task[bool]] = set()
        self._over = False
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._live, args=(ready, past), name="agent-gym-mcp", daemon=True)
        self._thread.start()
        try:
            ready.result()
        except (ToolError, ForkDiverged):
            self._thread.join(_CLOSE_SECONDS)
            raise

    # -- from any thread -------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether calls can be made; a fork of the process inherits no connection."""
        return self._client is not None and self._owner == os.getpid()

    def call(self, name: str, arguments: Mapping[str, Any]) -> "Future[Answer]":
        """Begin a call; where the future is cancelled, so is the call.

        The future, or this function, raises `Lost` where the connection ends before there is an answer.
        """
        return self._submit(self._call(name, arguments))

    def list_tools(self) -> None:
        """Ask again what tools there are.

        Raises:
            Lost: The connection has ended.
        """
        self._submit(self._list_tools()).result()

    def leave(self) -> None:
        """Begin to end the connection, and the server if it is a process of ours."""
        if self._owner != os.getpid() or self._loop is None:
            return
        with suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._ended.set)

    def close(self) -> None:
        """End the connection, and the server if it is a process of ours."""
        self.leave()
        if self._owner == os.getpid():
            self._thread.join(_CLOSE_SECONDS)

    def _submit(self, coroutine: Coroutine[Any, Any, _T]) -> "Future[_T]":
        with self._lock:
            if self._over or self._loop is None or self._owner != os.getpid():
                coroutine.close()
                raise Lost
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
            self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        return future

    # -- its thread ------------------------------------------------------------------------------------------------

    def _live(self, ready: "Future[None]", past: Sequence[PastCall]) -> None:
        _open.add(self)
        try:
            asyncio.run(self._converse(ready, past))
        finally:
            _open.discard(self)
            with self._lock:
                self._over = True
            for future, error in [(ready, self._explained(None)), *((each, Lost()) for each in list(self._waiting))]:
                with suppress(InvalidStateError):  # most have their result
                    future.set_exception(error)

    async def _converse(self, ready: "Future[None]", past: Sequence[PastCall]) -> None:
        """Try the ways to the server until one of them works; then stay until the connection ends."""
        self._loop = asyncio.get_running_loop()
        refused: BaseException | None = None
        for mode, transport in self.server.ways(self._ended):
            self._ended.clear()
            try:
                await self._stay(mode, transport, ready, past)
            except Exception as error:  # noqa: BLE001 - whatever it is, who waits for the connection learns of it
                cause = _cause(error)
                _log.debug("the connection with %s ended", self.server.name, exc_info=error)
                refused = refused or cause
                if not ready.done() and isinstance(cause, MCPError) and cause.code != types.CONNECTION_CLOSED:
                    continue
            break
        if not ready.done():
            ready.set_exception(self._explained(refused))

    async def _stay(self, mode: str, transport: Transport, ready: "Future[None]", past: Sequence[PastCall]) -> None:
        client = Client(
            transport,
            mode=mode,
            cache=None,
            message_handler=self._hear,
            client_info=types.Implementation(name="agent-gym", version=agent_gym.__version__),
        )
        try:
            async with asyncio.timeout(self._start_timeout) as patience, client:
                self._client = client
                await self._list_tools()
                for index, call in enumerate(past):
                    patience.reschedule(asyncio.get_running_loop().time() + self._start_timeout)
                    await self._repeat(index, call)
                patience.reschedule(None)
                ready.set_result(None)
                await self._ended.wait()
                self._client = None
        finally:
            self._client = None
            self._ended.set()
            await self._last_words()

    async def _last_words(self) -> None:
        """Let calls that were under way end, before the loop would cancel them: nobody asked for that."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=_LAST_SECONDS)

    def _explained(self, cause: BaseException | None) -> BaseException:
        if isinstance(cause, ForkDiverged):
            return cause
        why = str(cause or "the connection ended").strip()
        if isinstance(cause, TimeoutError):
            why = f"it was not ready within {self._start_timeout:g} s"
        reasons = ", and ".join(reason for reason in (why, self.server.trouble) if reason)
        return ToolError(f"The tool server {self.server.name} cannot be used ({reasons}): see that it runs by itself.")

    # -- on its loop -----------------------------------------------------------------------------------------------

    async def _call(self, name: str, arguments: Mapping[str, Any]) -> Answer:
        if not self._remember:
            return await self._ask(name, arguments)
        async with self._turn:
            answer = await self._ask(name, arguments)
            self.past.append(PastCall(name, arguments, answer.fingerprint))
            return answer

    async def _ask(self, name: str, arguments: Mapping[str, Any]) -> Answer:
        if self._client is None:
            raise Lost
        try:
            result = await self._client.call_tool(name, dict(arguments))
        except asyncio.CancelledError:
            probe = asyncio.create_task(self._is_there())
            self._probes.add(probe)
            probe.add_done_callback(self._probes.discard)
            raise
        except MCPError as error:
            if error.code == types.CONNECTION_CLOSED:
                self.unsure = True
                if not await self._is_there():
                    raise Lost from error
            if error.data == ENGINE_FAILURE:
                raise WorkerError(error.message) from error
            return Answer(error.message, failed=True)
        except (RuntimeError, ValueError) as error:  # the answer is not what the protocol or the tool's schema allows
            return Answer(str(error), failed=True)
        return Answer(as_text(result), result.is_error)

    async def _is_there(self) -> bool:
        """Return whether the server still does anything; if it does not, the connection ends."""
        if self._client is None:
            return False
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                await self._client.session.list_tools()
            return True
        except (RuntimeError, ValueError):  # it says something, even if it makes no sense
            return True
        except MCPError as error:
            if error.code != types.CONNECTION_CLOSED:
                return True
        except TimeoutError:
            _log.warning("the tool server %s does not answer any more and is given up", self.server.name)
        self._ended.set()
        return False

    async def _repeat(self, index: int, call: PastCall) -> None:
        answer = await self._call(call.name, call.arguments)
        if answer.fingerprint != call.fingerprint:
            raise ForkDiverged(
                f"The tool server {self.server.name} answered call {index + 1} ({call.name}) in another way than "
                f"before: {answer.text[:200]!r}; its state cannot be made again by repeating calls."
            )

    async def _list_tools(self) -> None:
        if self._client is None:
            raise Lost
        self.stale = False
        found: dict[str, types.Tool] = {}
        cursor: str | None = None
        for _ in range(_PAGES):
            page = await self._client.list_tools(cursor=cursor)
            found |= {tool.name: tool for tool in page.tools}
            cursor = page.next_cursor
            if cursor is None:
                break
        self.tools = found

    async def _hear(self, message: IncomingMessage) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self.stale = True


_open: set[Connection] = set()


@atexit.register
def _close_all() -> None:
    """End the servers before the interpreter ends."""
    connections = list(_open)
    for connection in connections:
        connection.leave()
    for connection in connections:
        connection.close()


def _cause(error: BaseException) -> BaseException:
    """Return what a group of errors is about: task groups wrap whatever passes through them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
