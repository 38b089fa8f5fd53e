"""A tool server at an address: streamable HTTP, or the older way with an event stream (SSE).

The client is that of the `mcp` package; what is added bounds what an answer may hold, and remembers what the server
answered, so that an error can say it. Knows nothing of tools.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import httpx2
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from agent_gym.errors import ConfigError
from agent_gym.tools.mcp.stdio import MAX_ANSWER_BYTES

if TYPE_CHECKING:
    from mcp.client import Transport

_CONNECT_SECONDS = 30.0
_FAREWELL_SECONDS = 2.0
_SESSION_HEADER = "mcp-session-id"


class _Bounded(httpx2.AsyncByteStream):
    """The body of an answer, up to a limit."""

    def __init__(self, body: httpx2.AsyncByteStream) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        got = 0
        async for chunk in self._body:
            got += len(chunk)
            if got > MAX_ANSWER_BYTES:
                raise httpx2.StreamError(f"its answer is longer than {MAX_ANSWER_BYTES} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._body.aclose()


async def _hurry(request: httpx2.Request) -> None:
    """Let the request that ends a session wait for a short time only."""
    if request.method == "DELETE":
        request.extensions["timeout"] = httpx2.Timeout(_FAREWELL_SECONDS).as_dict()


class HttpServer:
    """A server that is reached over HTTP; it is not ours to start or to end.

    Args:
        url: Its address.
        headers: Sent with every request.

    Raises:
        ConfigError: It is no address.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        try:
            self._shown = str(httpx2.URL(url).copy_with(userinfo=b"", query=None))
        except httpx2.InvalidURL as error:
            raise ConfigError(f"The address of the tool server cannot be read ({error}): {url!r}.") from error
        self._url = url
        self._headers = dict(headers)
        self._refused: int | None = None

    @property
    def name(self) -> str:
        """Its address, without a password."""
        return self._shown

    @property
    def trouble(self) -> str:
        """What is known of why it does not work, as a clause; "" if nothing is."""
        if self._refused is None:
            return ""
        return f"it answered {self._refused} {HTTPStatus(self._refused).phrase}"

    def ways(self, ended: asyncio.Event) -> "Iterator[tuple[str, Transport]]":
        """Yield the ways to reach it, as the mode of the client and a transport, the likeliest first.

        Args:
            ended: Set when the server no longer knows the session.
        """
        yield "legacy", self._streamable(ended)
        yield "auto", self._streamable(ended)
        yield "legacy", sse_client(self._url, self._headers, httpx_client_factory=partial(self._client, ended))

    @asynccontextmanager
    async def _streamable(self, ended: asyncio.Event) -> AsyncIterator[Any]:
        async with (
            self._client(ended, self._headers) as client,
            streamable_http_client(self._url, http_client=client, max_sse_event_size=MAX_ANSWER_BYTES) as streams,
        ):
            yield streams

    def _client(
        self,
        ended: asyncio.Event,
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
    ) -> httpx2.AsyncClient:
        """Return the client that makes the requests; it never gives up an open stream, since each call has a time-out.

        The signature is that of the `mcp` package's factory of clients.
        """
        return httpx2.AsyncClient(
            headers={**(headers or {}), "accept-encoding": "identity"},
            timeout=httpx2.Timeout(_CONNECT_SECONDS, read=None),
            auth=auth,
            event_hooks={"request": [_hurry], "response": [partial(self._look_at, ended)]},
        )

    async def _look_at(self, ended: asyncio.Event, response: httpx2.Response) -> None:
        request = response.request
        if request.method == "POST" and response.is_error:
            self._refused = response.status_code
            if response.status_code == HTTPStatus.NOT_FOUND and _SESSION_HEADER in request.headers:
                ended.set()
        if response.headers.get("content-encoding", "identity") != "identity":
            # What is compressed cannot be bounded by its size.
            raise httpx2.DecodingError("it sent a compressed answer, which was not asked for", request=request)
        if response.headers.get("content-type", "").startswith("application/json"):
            response.stream = _Bounded(cast("httpx2.AsyncByteStream", response.stream))
