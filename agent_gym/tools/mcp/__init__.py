"""Tools over the Model Context Protocol (MCP): any server's tools become ours, and ours can be served.

Needs the extra `mcp`.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent_gym.errors import MissingExtraError
from agent_gym.tools.base import Tool

__all__ = ["mcp_tools", "require_mcp"]


def mcp_tools(
    server: str | Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    headers: Mapping[str, str] | None = None,
    per_episode: bool = False,
    timeout: float | None = 30.0,
    start_timeout: float = 60.0,
) -> list[Tool]:
    """Return the tools of an MCP server.

    `mcp_tools("python server.py")` starts the server as a process and speaks with it over its standard streams;
    `mcp_tools("http://127.0.0.1:8000/mcp")` reaches one that runs already.

    All tools of one server share a connection, and so do all episodes and their forks, in this process. A server that
    dies is started or reached again, once a call; if it dies of the call again, that is a `WorkerError` and the episode
    is run again. One that lets a call wait for too long and then does not react at all is ended and started again.

    Args:
        server: A command line, or a list of a program and its arguments; or an address, http:// or https://.
        env: Environment variables of a server that is started here. It gets no others but HOME, LOGNAME, PATH, SHELL,
            TERM and USER.
        cwd: Working folder of a server that is started here; ours by default.
        headers: Sent with every request to a server at an address, for example {"Authorization": "Bearer ..."}.
        per_episode: For a server that remembers earlier calls: each episode has a connection of its own (and a process
            of its own, where the server is started here). A fork makes a new connection and repeats the calls of its
            parent. The tools of one list that a toolbox has belong to the same episode.
        timeout: Seconds that a call may take; None for no limit.
        start_timeout: Seconds that the server has to start and to say what tools it has.

    Raises:
        MissingExtraError: The package `mcp` is not installed.
        ToolError: The server cannot be started or reached, or is none.
        ConfigError: An argument does not fit the kind of server.
    """
    require_mcp("A tool server")
    from agent_gym.tools.mcp.client import tools_of

    return tools_of(
        server,
        env=env,
        cwd=cwd,
        headers=headers,
        per_episode=per_episode,
        timeout=timeout,
        start_timeout=start_timeout,
    )


def require_mcp(feature: str) -> None:
    """See that the package `mcp` is there, in a version that has its types apart.

    Args:
        feature: What needs it, for the error.

    Raises:
        MissingExtraError: It is not installed.
    """
    if importlib.util.find_spec("mcp_types") is None:
        raise MissingExtraError.of("mcp", feature)
