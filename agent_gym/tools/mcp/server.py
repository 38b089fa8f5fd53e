"""Our tools as an MCP server, over standard streams or HTTP; each session has a toolbox of its own."""

import hmac
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import mcp_types as types
from mcp import MCPError
from mcp.server import Server, ServerRequestContext
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

import agent_gym
from agent_gym.addresses import is_loopback
from agent_gym.errors import AgentGymError, ConfigError
from agent_gym.tools.base import Tool
from agent_gym.tools.calls import ToolCall, ToolResult
from agent_gym.tools.mcp.content import ENGINE_FAILURE
from agent_gym.tools.toolbox import Toolbox

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_PATH = "/mcp"
_SESSION = "agent_gym.session"
_LAST_SECONDS = 5
"""For requests under way when the server is told to stop."""

Context = ServerRequestContext[Any, Any]


class ToolServer:
    """Tools, offered to clients of the protocol.

    A session is an episode: it begins with a client's first call, and ends with its connection.

    Args:
        tools: Tools, classes of tools, typed functions, names or references, see `as_tool`.
        name: What the server calls itself.

    Raises:
        ToolError: Something is no tool, or two have the same name.
    """

    def __init__(self, tools: Iterable[Tool | type[Tool] | Callable[..., Any] | str], *, name: str) -> None:
        self._toolbox = Toolbox(tools)
        self.server: Server[Any] = Server(
            name, version=agent_gym.__version__, on_list_tools=self._list_tools, on_call_tool=self._call_tool
        )
        self.server.add_request_handler("server/discover", types.RequestParams, self._discover)
        self.server.middleware.append(_want_session)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tools."""
        return self._toolbox.names

    async def _list_tools(self, context: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[
                types.Tool(name=tool.name, description=tool.description, input_schema=tool.parameters)
                for tool in self._toolbox.tools.values()
            ]
        )

    async def _call_tool(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        # `Connection` has room for state and for what is to be done at its end; a request's context does not show it.
        connection = context.session._connection
        session = connection.state.get(_SESSION)
        if session is None:
            session = connection.state[_SESSION] = _Session(self._toolbox.tools.values())
            connection.exit_stack.push_async_callback(session.end)
        try:
            result = await session.call(ToolCall(params.name, params.arguments or {}))
        except AgentGymError as error:
            raise MCPError(types.INTERNAL_ERROR, str(error), ENGINE_FAILURE) from error
        return types.CallToolResult(content=[types.TextContent(text=result.text)], is_error=not result.ok)

    async def _discover(self, context: Context, params: types.RequestParams | None) -> types.DiscoverResult:
        """Tell a client of the protocol without sessions that this server wants one."""
        return types.DiscoverResult(
            supported_versions=list(HANDSHAKE_PROTOCOL_VERSIONS), capabilities=self.server.get_capabilities()
        )


async def _want_session(ctx: Context, call_next: Callable[[Context], Awaitable[Any]]) -> Any:
    """Refuse a call without a session, which would lose a tool's state between calls."""
    if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS and ctx.method != "server/discover":
        supported = types.UnsupportedProtocolVersionErrorData(
            supported=list(HANDSHAKE_PROTOCOL_VERSIONS), requested=ctx.protocol_version
        )
        raise MCPError(
            types.UNSUPPORTED_PROTOCOL_VERSION,
            "These tools may have a state, which belongs to a session: begin with the initialize handshake.",
            supported.model_dump(mode="json"),
        )
    return await call_next(ctx)


class _Session:
    """The toolbox of one client; calls run side by side, those of a tool with a state one by one."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._toolbox = Toolbox(tools)
        self._begun = False
        self._beginning = anyio.Lock()
        self._turns = {name: anyio.Lock() for name, tool in self._toolbox.tools.items() if tool.stateful}

    async def call(self, call: ToolCall) -> ToolResult:
        async with self._beginning:
            if not self._begun:
                await anyio.to_thread.run_sync(self._toolbox.setup)
                self._begun = True
        turn = self._turns.get(call.name)
        if turn is None:
            return await self._toolbox.call_async(call)
        # A client that gives up leaves the call to its own time-out: the next one would find the state in use.
        with anyio.CancelScope(shield=True):
            async with turn:
                result = await self._toolbox.call_async(call)
        return result

    async def end(self) -> None:
        await anyio.to_thread.run_sync(self._toolbox.close)


def serve_stdio(make: Callable[[], ToolServer]) -> None:
    """Serve over standard input and output until the input ends; whatever else is printed goes to standard error.

    Args:
        make: Makes the server; what is printed while tools are imported must not get into the protocol either.
    """
    with _diverted_output():
        server = make().server

    async def serve() -> None:
        async with stdio_server() as (read, write):
            await serve_loop(server, read, write, lifespan_state={})

    anyio.run(serve)


def serve_http(
    server: ToolServer, host: str, port: int, *, token: str | None = None, announce: Callable[[str], None]
) -> None:
    """Serve over streamable HTTP until the process is told to stop (SIGINT or SIGTERM).

    Args:
        server: The server.
        host: Where to listen. What can be reached from other machines needs a token.
        port: The port; 0 for a free one.
        token: What clients must send as "Authorization: Bearer TOKEN", if anything.
        announce: Told the address as soon as connections are accepted.

    Raises:
        ConfigError: The address cannot be listened at, or would be open to everybody.
    """
    import uvicorn

    local = is_loopback(host)
    if token == "" or (token is None and not local):
        raise ConfigError(f"Tools at {host} can be used by others: give a --token, or serve at 127.0.0.1.")
    with _listening(host, port) as listener:
        port = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        # A page in a browser may reach what listens here, under another name: only our names are answered to.
        names = [f"{each}:*" for each in (shown, "127.0.0.1", "localhost", "[::1]")]
        app: ASGIApp = server.server.streamable_http_app(
            streamable_http_path=_PATH,
            transport_security=TransportSecuritySettings(
                enable_dns_rebinding_protection=local,
                allowed_hosts=names,
                allowed_origins=[f"http://{each}" for each in names],
            ),
        )
        if token is not None:
            app = _Guard(app, token)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=_LAST_SECONDS
        )
        announce(f"http://{shown}:{port}{_PATH}")
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


class _Guard:
    """Lets requests with the right token through."""

    def __init__(self, app: "ASGIApp", token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from starlette.responses import PlainTextResponse

        if scope["type"] != "lifespan":
            given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            if not hmac.compare_digest(given, self._expected):
                refusal = PlainTextResponse("the token is missing or wrong", 401, {"WWW-Authenticate": "Bearer"})
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"Nothing can be served at {host}:{port} ({error}): choose another address.") from error


@contextmanager
def _diverted_output() -> Iterator[None]:
    """Send what is written to standard output to standard error, whoever writes it."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
