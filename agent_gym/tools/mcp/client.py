"""The tools of a server as tools of ours."""

import copy
import inspect
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import mcp_types as types

from agent_gym.errors import ConfigError, ToolError
from agent_gym.tools.base import Tool
from agent_gym.tools.calls import ToolResult
from agent_gym.tools.mcp.arguments import RemoteArguments, as_json, usable_schema
from agent_gym.tools.mcp.http import HttpServer
from agent_gym.tools.mcp.link import Link
from agent_gym.tools.mcp.stdio import ServerProcess

_UNFIT = re.compile(r"[^A-Za-z0-9_-]")
_NAME_LENGTH = 64


class McpTool(Tool):
    """A tool that a server offers; made by `mcp_tools`.

    Args:
        remote: What the server says of it.
        name: What a model calls it.
        link: The way to the server.
        timeout: Seconds that a call may take.
    """

    blocking = True

    def __init__(self, remote: types.Tool, name: str, link: Link, timeout: float | None) -> None:
        self.remote_name = remote.name
        """What the server calls it."""
        self.name = name
        self.timeout = timeout
        self.stateful = link.per_episode
        self._link = link
        self._describe(remote)

    def setup(self) -> None:
        """Begin an episode: see that the server is there and still has this tool, and learn what it says of it now.

        Raises:
            ToolError: The server no longer has it.
            WorkerError: The server cannot be reached any more.
        """
        before, self._link = self._link, self._link.begin(self, self.remote_name)
        if before is not self._link:
            before.leave(self, wait=False)
        remote = self._link.tools().get(self.remote_name)
        if remote is None:
            raise ToolError(f"The tool server no longer has a tool {self.remote_name!r}: make its tools again.")
        self._describe(remote)

    async def run(self, **arguments: Any) -> Any:
        """Have the server answer a call."""
        answer = await self._link.call(self.remote_name, as_json(arguments))
        return ToolResult(self.name, answer.text, "error") if answer.failed else answer.text

    def fork(self) -> Self:
        """Return a tool for a fork of the episode.

        Raises:
            ForkDiverged: The server has a state, and did not come to the same state by the same calls.
            WorkerError: The server cannot be reached any more.
        """
        twin = copy.copy(self)
        twin._link = self._link.fork(twin, self.remote_name)
        return twin

    def close(self) -> None:
        """Leave the server to the others; a process of ours ends when nobody uses it any more."""
        self._link.leave(self, wait=True)

    def _describe(self, remote: types.Tool) -> None:
        self.description = inspect.cleandoc(remote.description or remote.title or "")
        self.parameters = usable_schema(remote.input_schema)
        self.arguments = RemoteArguments(self.parameters)
        vars(self).pop("text_parameter", None)


def tools_of(
    server: str | Sequence[str],
    *,
    env: Mapping[str, str] | None,
    cwd: str | Path | None,
    headers: Mapping[str, str] | None,
    per_episode: bool,
    timeout: float | None,
    start_timeout: float,
) -> list[Tool]:
    """Return the tools of a server, see `mcp_tools`."""
    make_server = _describe_server(server, env, cwd, headers)
    if per_episode:
        link = Link(make_server, start_timeout=start_timeout, per_episode=True)
    else:
        key = (make_server.func, *map(_hashable, make_server.args), start_timeout)
        link = Link.shared(key, make_server, start_timeout)
    remotes = link.tools().values()
    if per_episode:
        link.close(wait=True)
    names: list[str] = []
    for remote in remotes:
        names.append(_name(remote.name, names))
    return [McpTool(remote, name, link, timeout) for remote, name in zip(remotes, names, strict=True)]


def _describe_server(
    server: str | Sequence[str],
    env: Mapping[str, str] | None,
    cwd: str | Path | None,
    headers: Mapping[str, str] | None,
) -> "partial[HttpServer] | partial[ServerProcess]":
    if isinstance(server, str) and server.startswith(("http://", "https://")):
        if env is not None or cwd is not None:
            raise ConfigError("env and cwd are for a server that is started here, not for one at an address.")
        return partial(HttpServer, server, dict(headers or {}))
    if headers is not None:
        raise ConfigError("headers are for a server at an address (http://...), not for one that is started here.")
    try:
        command = shlex.split(server) if isinstance(server, str) else [str(part) for part in server]
    except ValueError as error:
        raise ConfigError(f"The command of the tool server cannot be read ({error}): {server!r}.") from error
    if not command:
        raise ConfigError("A tool server is a command line or an address: it is empty.")
    return partial(ServerProcess, command, dict(env or {}), None if cwd is None else Path(cwd))


def _hashable(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple(sorted(value.items()))
    return tuple(value) if isinstance(value, list) else value


def _name(remote: str, taken: Sequence[str]) -> str:
    """Return a name that models can write and that is not taken: "github.find" becomes "github_find"."""
    name = _UNFIT.sub("_", remote)[:_NAME_LENGTH] or "tool"
    number = 2
    chosen = name
    while chosen in taken:
        chosen = f"{name[: _NAME_LENGTH - 4]}_{number}"
        number += 1
    return chosen
