"""Fetches one page: every hop is checked, and its size and its time are limited.

Knows nothing of what is in the page.
"""

import ssl
from collections.abc import Collection
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

import httpcore

from agent_gym.errors import ConfigError, ToolError
from agent_gym.tools.browse.decoding import ACCEPTED, Unpacker
from agent_gym.tools.browse.guard import Guard, port_of
from agent_gym.tools.browse.network import Deadline, GuardedNetwork, Resolver, resolve_host

if TYPE_CHECKING:
    import httpx

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TEXTS = ("text/", "application/xhtml", "application/xml", "application/json")
_USER_AGENT = "Mozilla/5.0 (compatible; agent-gym)"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a server gave."""

    url: str
    """After redirects."""
    content_type: str
    body: bytes
    """Unpacked."""
    cut: bool
    """Whether the limit of the size cut it off."""


class Fetcher:
    """Fetches pages of the public web; safe to call from many threads.

    A url, every redirect, and every address that a host name leads to are checked, and the connection goes to the
    address that was checked. No cookies, no passwords and no proxies of the environment are used. A redirect from
    https to http is followed: nothing secret is sent, and no page is trusted.

    Args:
        allow: Addresses that need not be public, see `Guard`.
        ports: Ports that may be opened; any by default.
        seconds: Time for all of a fetch, redirects included.
        max_bytes: Bytes of a page, unpacked; the rest is left out.
        redirects: Redirects that are followed.
        proxy: Address of a proxy, "http://host:port". It looks up the names, so that it must itself refuse addresses
            that are not public; only what the url tells is checked here.
        user_agent: What the fetcher calls itself.
        ssl_context: Certificates to trust; those of the system's and certifi's authorities by default.
        resolve: Looks up names; for tests.

    Raises:
        ConfigError: An entry of `allow` has no port, or the proxy is no address.
    """

    def __init__(
        self,
        *,
        allow: Collection[str] = (),
        ports: Collection[int] | None = None,
        seconds: float = 15.0,
        max_bytes: int = 5 * 1024 * 1024,
        redirects: int = 5,
        proxy: str | None = None,
        user_agent: str = _USER_AGENT,
        ssl_context: ssl.SSLContext | None = None,
        resolve: Resolver = resolve_host,
    ) -> None:
        self._guard = Guard(allow=allow, ports=ports)
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._redirects = redirects
        if proxy is not None and not proxy.startswith(("http://", "https://")):
            raise ConfigError(f"The proxy {proxy!r} is no address: write http://host:port.")
        self._proxy = proxy
        # Reading the certificates takes long; it is done once.
        self._ssl_context = ssl_context or httpcore.default_ssl_context()
        self._resolve = resolve
        self._headers = [
            (b"User-Agent", user_agent.encode("ascii", "replace")),
            (b"Accept", b"text/html,application/xhtml+xml,text/plain;q=0.9,application/json;q=0.8,*/*;q=0.1"),
            (b"Accept-Encoding", ACCEPTED.encode()),
        ]

    def fetch(self, text: str) -> Fetched:
        """Fetch a page.

        Args:
            text: Its url; "https://" may be left out.

        Raises:
            ToolError: It cannot be fetched, or it may not be.
        """
        url = self._guard.check_url(text)
        try:
            with self._connections() as pool:
                for _ in range(self._redirects + 1):
                    answer = self._get(pool, url)
                    if isinstance(answer, Fetched):
                        return answer
                    url = answer
        except httpcore.TimeoutException as error:
            raise ToolError(f"{_place(url)} did not answer within {self._seconds:g} seconds.") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError, ssl.SSLError) as error:
            raise ToolError(f"{_place(url)} could not be read: {_reason(error)}.") from error
        raise ToolError(f"{_place(url)} redirects more than {self._redirects} times.")

    def _connections(self) -> httpcore.ConnectionPool:
        """Return connections for one fetch, which all end at its deadline."""
        guard = None if self._proxy else self._guard
        network = GuardedNetwork(Deadline(self._seconds), guard, self._resolve)
        proxy = httpcore.Proxy(self._proxy) if self._proxy else None
        return httpcore.ConnectionPool(ssl_context=self._ssl_context, network_backend=network, proxy=proxy)

    def _get(self, pool: httpcore.ConnectionPool, url: "httpx.URL") -> "Fetched | httpx.URL":
        """Return a page, or where it redirects to."""
        target = httpcore.URL(
            scheme=url.scheme, host=url.raw_host.decode("ascii"), port=url.port, target=url.raw_path or b"/"
        )
        with pool.stream("GET", target, headers=self._headers) as response:
            headers = {name.decode("latin-1").lower(): value for name, value in response.headers}
            if response.status in _REDIRECTS and headers.get("location"):
                return self._follow(url, headers["location"])
            if response.status != HTTPStatus.OK:
                raise ToolError(f"{_place(url)} answered with status {_status(response.status)}.")
            content_type = headers.get("content-type", b"").decode("latin-1").strip().lower()
            if content_type and not content_type.startswith(_TEXTS) and "+xml" not in content_type:
                kind = content_type.partition(";")[0][:80]
                raise ToolError(f"{_place(url)} is of the kind {kind!r}, and only text can be read.")
            unpacker = Unpacker(headers.get("content-encoding", b"").decode("latin-1"), self._max_bytes)
            for piece in response.iter_stream():
                unpacker.feed(piece)
                if unpacker.full:
                    break
        return Fetched(str(url), content_type, bytes(unpacker.body), unpacker.full)

    def _follow(self, url: "httpx.URL", location: bytes) -> "httpx.URL":
        import httpx

        try:
            target = url.join(_header_text(location))
        except (httpx.InvalidURL, ValueError) as error:
            raise ToolError(f"{_place(url)} redirects to something that is no url.") from error
        return self._guard.check_url(str(target))


def _header_text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _place(url: "httpx.URL") -> str:
    return f"{url.scheme}://{url.host}:{port_of(url)}"


def _status(status: int) -> str:
    try:
        return f"{status} ({HTTPStatus(status).phrase})"
    except ValueError:
        return str(status)


def _reason(error: Exception) -> str:
    """Say what is wrong in words of our own: a server can have its text in an exception."""
    reasons = {
        "certificate": "its certificate is not trusted",
        "refused": "it refuses the connection",
    }
    told = str(error).lower()
    broken = isinstance(error, httpcore.ProtocolError)
    return next(
        (reason for mark, reason in reasons.items() if mark in told and not broken),
        "its answer is no HTTP" if broken else "the connection failed",
    )
