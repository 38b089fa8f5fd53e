"""`agent-gym serve-tools`: tools for other programs, over the Model Context Protocol."""

import re
from collections.abc import Sequence

import typer

from agent_gym.errors import ConfigError
from agent_gym.tools.mcp import require_mcp

_ADDRESS = re.compile(r"(?P<host>\[[^\]]+\]|[^:\[\]]+):(?P<port>\d{1,5})")


def run_serve(tools: Sequence[str], *, http: str | None = None, token: str | None = None, name: str) -> None:
    """Serve tools until the client leaves (standard streams) or the process is told to stop (HTTP).

    Args:
        tools: Names or references, see `agent_gym.tools.base.as_tool`.
        http: "HOST:PORT" to listen at; standard input and output if None.
        token: What clients must send as "Authorization: Bearer TOKEN"; needed where other machines can reach HOST.
        name: What the server calls itself.

    Raises:
        ToolError: One of them is no tool.
        ConfigError: The address cannot be listened at, or would be open to everybody.
        MissingExtraError: The package `mcp` is not installed.
    """
    require_mcp("Serving tools")
    from agent_gym.tools.mcp.server import ToolServer, serve_http, serve_stdio

    if http is None:
        if token is not None:
            raise ConfigError("--token is for --http: standard streams are reached by who starts the process alone.")
        serve_stdio(lambda: ToolServer(tools, name=name))
        return
    host, port = _address(http)
    server = ToolServer(tools, name=name)
    serve_http(server, host, port, token=token, announce=lambda url: _announce(server.names, url))


def _announce(names: Sequence[str], url: str) -> None:
    typer.echo(f"serving {', '.join(names)} at {url}")


def _address(given: str) -> tuple[str, int]:
    found = _ADDRESS.fullmatch(given)
    if found is None or int(found["port"]) > 65535:
        raise ConfigError(f"--http is HOST:PORT, for example 127.0.0.1:8000, not {given!r}.")
    return found["host"].strip("[]"), int(found["port"])
