"""The way from tools to their server: opens a connection when one is needed, and again where it was lost.

All episodes and forks share one link by default. For a server with a state, each episode has a link of its own, and a
fork comes to its parent's state by making the same calls again.
"""

import asyncio
import threading
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import mcp_types as types

from agent_gym.errors import ForkDiverged, ToolError, WorkerError
from agent_gym.tools.episode import current_episode
from agent_gym.tools.mcp.connection import Answer, Connection, Lost, PastCall, Server


class Link:
    """The way to a server, for tools in any thread or event loop.

    Args:
        make_server: Describes the server; each connection has a description of its own, in which it notes what it saw.
        start_timeout: Seconds that the server has to start and to say what tools it has.
        per_episode: Whether each episode has a link of its own.
        past: Calls that bring the server to the state that it should be in.
    """

    def __init__(
        self,
        make_server: Callable[[], Server],
        *,
        start_timeout: float,
        per_episode: bool,
        past: Sequence[PastCall] = (),
    ) -> None:
        self.per_episode = per_episode
        self._make_server = make_server
        self._start_timeout = start_timeout
        self._past = past
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._worked = False
        self._watch: weakref.finalize[..., Link] | None = None
        self._users: weakref.WeakSet[object] = weakref.WeakSet()
        self._members: set[str] = set()
        self._offspring: dict[tuple[str, Hashable], weakref.ref[Link]] = {}

    @classmethod
    def shared(cls, key: Hashable, make_server: Callable[[], Server], start_timeout: float) -> "Link":
        """Return the link of all who give the same key in this process."""
        with _guard:
            link = _shared.get(key)
            if link is None:
                link = _shared[key] = cls(make_server, start_timeout=start_timeout, per_episode=False)
            return link

    # -- episodes --------------------------------------------------------------------------------------------------

    def begin(self, user: object, member: str) -> "Link":
        """Return the link for an episode that begins; a tool of the name `member` uses it from now on.

        Raises:
            WorkerError: The server cannot be reached any more.
        """
        link = self._joined("begin", member, self._child) if self.per_episode else self
        link._users.add(user)
        link.open()
        return link

    def fork(self, user: object, member: str) -> "Link":
        """Return the link for a fork of an episode, with the server in the same state.

        Raises:
            ForkDiverged: The same calls had other answers, or a call was given up and nobody knows what it did.
            WorkerError: The server cannot be reached any more.
        """
        link = self._joined("fork", member, self._twin) if self.per_episode else self
        link._users.add(user)
        if link._past:
            link.open()
        return link

    def leave(self, user: object, *, wait: bool) -> None:
        """Say that a tool has no more use for it; the last one ends the connection.

        Args:
            user: The tool.
            wait: Whether to wait until the server has ended.
        """
        self._users.discard(user)
        if not self._users:
            self.close(wait=wait)

    def close(self, *, wait: bool) -> None:
        """End the connection; the next call opens another."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                self._past = ()
        if connection is not None:
            if wait:
                connection.close()
            else:
                connection.leave()

    def _joined(self, why: str, member: str, make: "Callable[[], Link]") -> "Link":
        """Return the link that the other tools of the same episode have got for the same reason, or make it."""
        key = (why, current_episode())
        with _guard:
            known = self._offspring.get(key)
            link = known() if known else None
            if link is None or member in link._members:
                link = make()
                self._offspring[key] = weakref.ref(link)
            link._members.add(member)
        return link

    def _child(self, past: Sequence[PastCall] = ()) -> "Link":
        link = Link(self._make_server, start_timeout=self._start_timeout, per_episode=True, past=past)
        link._worked = True
        return link

    def _twin(self) -> "Link":
        with self._lock:
            connection, past = self._connection, self._past
        if connection is not None:
            if connection.alive and connection.unsure:
                raise ForkDiverged(
                    f"The tool server {connection.server.name} let a call wait for too long, so that nobody knows its "
                    "state: it cannot be forked in this episode."
                )
            past = tuple(connection.past)
        return self._child(past)

    # -- the server ------------------------------------------------------------------------------------------------

    def tools(self) -> dict[str, types.Tool]:
        """Return what the server offers, by its own names.

        Raises:
            WorkerError: The server cannot be reached any more.
        """
        connection = self.open()
        if connection.stale:
            with suppress(Lost):
                connection.list_tools()
        return connection.tools

    async def call(self, name: str, arguments: Mapping[str, Any]) -> Answer:
        """Make a call, and once more where the connection is lost; if it is cancelled, the server is told.

        Raises:
            WorkerError: The server died of it, twice, or cannot be reached any more.
        """
        connection = await self._opened()
        try:
            return await self._call(connection, name, arguments)
        except Lost:
            connection = await self._opened()
        try:
            return await self._call(connection, name, arguments)
        except Lost as error:
            why = f" ({connection.server.trouble})" if connection.server.trouble else ""
            raise WorkerError(
                f"The tool server {connection.server.name} was lost twice in a call of {name}{why}: "
                "see whether it dies of the call or is ended by something else."
            ) from error

    async def _call(self, connection: Connection, name: str, arguments: Mapping[str, Any]) -> Answer:
        try:
            return await asyncio.wrap_future(connection.call(name, arguments))
        except asyncio.CancelledError:
            connection.unsure = True
            raise
        except Lost:
            # What went wrong is known when the connection has ended.
            await asyncio.to_thread(connection.close)
            raise

    async def _opened(self) -> Connection:
        connection = self._connection
        return connection if connection is not None and connection.alive else await asyncio.to_thread(self.open)

    def open(self) -> Connection:
        """Return the connection, opening one if there is none.

        Raises:
            ToolError: The server cannot be used, and never could.
            ForkDiverged: It cannot be brought to the state of the episode that is forked.
            WorkerError: It worked before, and cannot be reached or brought to the same state any more.
        """
        with self._lock:
            lost = self._connection
            if lost is not None and lost.alive:
                return lost
            if lost is not None:
                self._past = tuple(lost.past)
            try:
                connection = Connection(
                    self._make_server(), start_timeout=self._start_timeout, past=self._past, remember=self.per_episode
                )
            except ToolError as error:
                if not self._worked:
                    raise
                raise WorkerError(str(error)) from error
            except ForkDiverged as error:
                if lost is None:
                    raise
                raise WorkerError(str(error)) from error
            self._worked = True
            self._connection = connection
            self._watch_over(connection)
            return connection

    def _watch_over(self, connection: Connection) -> None:
        """End the connection where all tools are forgotten without having been closed."""
        if self._watch is not None:
            self._watch.detach()
        self._watch = weakref.finalize(self, connection.leave)
        self._watch.atexit = False


_shared: "weakref.WeakValueDictionary[Hashable, Link]" = weakref.WeakValueDictionary()
_guard = threading.RLock()
