"""What every request must pass and every answer carries: methods, host names, the token, headers.

The threats: a page of someone else in the same browser (it may neither read an answer nor have a name of its own
resolve to this server), other users of the network, and what an episode contains.
"""

import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent_gym.errors import ConfigError

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy: nothing runs but the page's own files, whatever an episode contains."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

SHORTEST_TOKEN = 12
_HOST = re.compile(r"(?P<name>[\w.-]+|\[[0-9a-fA-F:.]+\])(:\d+)?")


def is_loopback(host: str) -> bool:
    """Return whether only programs of this machine can reach a server that listens at `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def token_for(host: str, given: str | None) -> str | None:
    """Return the token that requests need: the given one; where others can reach `host`, else a new one.

    Raises:
        ConfigError: The given one is so short that it can be guessed.
    """
    if given is not None:
        if len(given) < SHORTEST_TOKEN:
            raise ConfigError(f"--token is too short to keep others out: give {SHORTEST_TOKEN} characters or more.")
        return given
    return None if is_loopback(host) else secrets.token_urlsafe(24)


class Guard:
    """Stands before the application and answers in its place where a request may not pass.

    Args:
        app: The application.
        host: The host that the server listens at.
        token: What requests must bring, as `?token=` (once, then as a cookie) or as a bearer token; None for nothing.
    """

    def __init__(self, app: ASGIApp, *, host: str = "127.0.0.1", token: str | None = None) -> None:
        self._app = app
        self._host = host.strip("[]").lower()
        self._token = token
        digest = hashlib.sha256((token or "").encode()).hexdigest()
        # The cookie holds no token, and two viewers on one host, whose cookies do not know ports, keep theirs apart.
        self._cookie_name, self._cookie = f"agent_gym_{digest[:8]}", digest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on; every answer gets the headers."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if scope["method"] not in ("GET", "HEAD"):
            return _error(405, "The viewer only shows: it answers GET alone.", {"Allow": "GET, HEAD"})
        if not self._serves(headers.get("host", "")):
            return _error(
                421,
                "The viewer does not answer under this host name; open it as localhost, or start it with --host NAME.",
            )
        if headers.get("sec-fetch-site") == "cross-site" and scope["path"].startswith("/api/"):
            return _error(403, "Pages of other sites may not ask the viewer for data.")
        if self._token is None:
            return None
        return self._without_token(scope, headers)

    def _serves(self, host: str) -> bool:
        """Return whether a Host header names this server; any port will do, since tunnels end at others."""
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found["name"].strip("[]").lower()
        if name in ("localhost", "127.0.0.1", "::1"):
            return True
        if self._host not in ("0.0.0.0", "::"):
            return name == self._host
        # It listens everywhere. A hostile page can have a name resolve to this machine, but not an address.
        return _is_address(name) or name == socket.gethostname().lower()

    def _without_token(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the answer to a request that did not bring the token as a cookie or as a bearer token."""
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(value):
            return None
        if _same(_cookie(headers, self._cookie_name), self._cookie):
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if scope["path"] == "/" and self._is_token(query.pop("token", [""])[0]):
            # Without the token in its address, so that it stays out of history and screenshots.
            answer = RedirectResponse("/" + (f"?{urlencode(query, doseq=True)}" if query else ""), 303)
            answer.set_cookie(self._cookie_name, self._cookie, httponly=True, samesite="strict", path="/")
            return answer
        return _error(
            401,
            "The viewer needs its token: open the address that `agent-gym view` printed, with ?token= in it.",
            {"WWW-Authenticate": "Bearer"},
        )

    def _is_token(self, given: str) -> bool:
        return _same(given, self._token or "")


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def _cookie(headers: Headers, name: str) -> str:
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load(headers.get("cookie", ""))
    except CookieError:
        return ""
    return cookies[name].value if name in cookies else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _error(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": sentence}, status, headers)
