"""Connections that go to the very address that was checked, and end when the time of the fetch is over.

A name that is looked up twice can have two answers, a public one for the check and a private one for the connection;
here it is looked up once. Knows nothing of HTTP.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from ssl import SSLContext
from typing import Any

import httpcore

from agent_gym.errors import ToolError
from agent_gym.tools.browse.guard import Guard

Resolver = Callable[[str, int, float], Sequence[str]]
"""Returns the addresses of a host, given its port and the seconds that it may take."""
_CONNECT_SECONDS = 5.0
"""For one address of several: a network without a route to the first may have one to the second."""


class Deadline:
    """The moment at which a fetch must be over, whatever it waits for.

    Args:
        seconds: From now.
        clock: Seconds that only grow; for tests.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    def left(self, at_most: float | None = None) -> float:
        """Return the seconds that are left.

        Raises:
            httpcore.TimeoutException: There are none.
        """
        left = self._end - self._clock()
        if left <= 0:
            raise httpcore.TimeoutException("the time of the fetch is over")
        return left if at_most is None else min(left, at_most)


class GuardedNetwork(httpcore.NetworkBackend):
    """Opens connections for one fetch.

    Args:
        deadline: When it must be over.
        guard: Checks every address of a host before any is connected to; None where a proxy does that.
        resolve: Looks up the addresses of a host.
    """

    def __init__(self, deadline: Deadline, guard: Guard | None, resolve: Resolver) -> None:
        self._deadline = deadline
        self._guard = guard
        self._resolve = resolve
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """See `httpcore.NetworkBackend.connect_tcp`.

        Raises:
            ToolError: One of the addresses is not public, or there is none.
        """
        addresses = self._resolve(host, port, self._deadline.left(timeout))
        if not addresses:
            raise ToolError(f"The host {host!r} has no address.")
        if self._guard is not None:
            for address in addresses:
                self._guard.check_address(address, host, port)
        failure: Exception | None = None
        for address in addresses:
            try:
                seconds = self._deadline.left(timeout if len(addresses) == 1 else _CONNECT_SECONDS)
                stream = self._sockets.connect_tcp(address, port, seconds, local_address, socket_options)
                return _TimedStream(stream, self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError("no address")

    def sleep(self, seconds: float) -> None:
        """See `httpcore.NetworkBackend.sleep`."""
        time.sleep(self._deadline.left(seconds))


class _TimedStream(httpcore.NetworkStream):
    """A connection whose every wait ends at the deadline: bytes that trickle in do not prolong it."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left(timeout))
        return _TimedStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def resolve_host(host: str, port: int, seconds: float) -> list[str]:
    """Look up the addresses of a host.

    The system's call knows no time-out: it runs in a thread, which is left behind when the time is over and ends when
    the system's own patience does.

    Raises:
        ToolError: The host is not known.
        httpcore.ConnectTimeout: It took too long.
    """
    found: Future[list[str]] = Future()

    def look_up() -> None:
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.set_result(list(dict.fromkeys(str(answer[4][0]) for answer in answers)))
        except Exception as error:  # noqa: BLE001 - handed over to the thread that waits
            found.set_exception(error)

    threading.Thread(target=look_up, name="agent-gym-resolve", daemon=True).start()
    try:
        return found.result(seconds)
    except FutureTimeoutError as error:
        raise httpcore.ConnectTimeout("looking up the host took too long") from error
    except (OSError, ValueError) as error:
        raise ToolError(f"The host {host!r} is not known.") from error
