"""Connections to one server, each lent to one request at a time.

A pool that is shared by all looks at each of its connections with every request, which costs milliseconds where there
are 64. Here a request takes the connection that was given back last, and looks at no other.
"""

import asyncio
import ssl
import urllib.request
from collections.abc import Mapping
from functools import cache

import httpx


class Lanes:
    """The connections of one event loop.

    Args:
        url: Where all requests go; paths are appended.
        headers: Sent with every request.
        count: Requests in flight, at most; the others wait.
        connect: Seconds that a connection may take.
        request: Seconds that a request may take, once it has a connection.
    """

    def __init__(self, url: str, headers: Mapping[str, str], *, count: int, connect: float, request: float) -> None:
        self.loop = asyncio.get_running_loop()
        self._url, self._seconds = url, request
        self._headers = {"Host": httpx.URL(url).netloc.decode(), "Accept": "application/json", **headers}
        self._extensions = {"timeout": httpx.Timeout(request, connect=connect, pool=None).as_dict()}
        self._paths: dict[str, httpx.URL] = {}
        self._proxy = _proxy_for(httpx.URL(url))
        self._free: list[httpx.AsyncHTTPTransport] = []
        self._room = asyncio.Semaphore(count)

    async def post(self, path: str, body: bytes) -> httpx.Response:
        """Send a request and read the whole answer; whoever is cancelled meanwhile closes the connection.

        Raises:
            httpx.TransportError: The server is not reached, or breaks off.
            TimeoutError: The answer takes too long.
        """
        async with self._room:
            lane = self._free.pop() if self._free else self._open()
            try:
                async with asyncio.timeout(self._seconds):
                    return await self._send(lane, path, body)
            finally:
                # One that was broken off opens its connection again.
                self._free.append(lane)

    async def close(self) -> None:
        """Close all connections; nothing must be in flight."""
        lanes, self._free = self._free, []
        for lane in lanes:
            await lane.aclose()

    async def _send(self, lane: httpx.AsyncHTTPTransport, path: str, body: bytes) -> httpx.Response:
        url = self._paths.get(path) or self._paths.setdefault(path, httpx.URL(self._url + path))
        request = httpx.Request("POST", url, headers=self._headers, content=body, extensions=self._extensions)
        response = await lane.handle_async_request(request)
        try:
            await response.aread()
        finally:
            await response.aclose()
        return response

    def _open(self) -> httpx.AsyncHTTPTransport:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        return httpx.AsyncHTTPTransport(verify=certificates(), limits=limits, proxy=self._proxy)


@cache
def certificates() -> ssl.SSLContext:
    """Return whom to trust; reading that takes longer than a request."""
    return httpx.create_ssl_context()


def _proxy_for(url: httpx.URL) -> httpx.Proxy | None:
    """Return the proxy that the environment names for an address (HTTPS_PROXY, NO_PROXY ...)."""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(url.host):
        return None
    return httpx.Proxy(proxy if "://" in proxy else f"http://{proxy}")
