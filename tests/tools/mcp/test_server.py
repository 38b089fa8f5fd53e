"""Our tools at one end of the protocol and the client at the other, over standard streams and over HTTP."""

import asyncio
import json
import os
import select
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp_types", reason="needs the extra mcp")

import mcp_types as types
from mcp import Client, MCPError, StdioServerParameters

from agent_gym.errors import ConfigError, ToolError, WorkerError
from agent_gym.tools.calls import ToolCall, ToolResult
from agent_gym.tools.mcp import mcp_tools
from agent_gym.tools.mcp.connection import Connection
from agent_gym.tools.mcp.server import ToolServer, serve_http
from agent_gym.tools.mcp.stdio import ServerProcess
from agent_gym.tools.toolbox import Toolbox

HERE = Path(__file__).parent
TOOLS = [f"my_tools.py:{name}" for name in ("lookup", "broken", "Gate", "Counter")]
PROGRAM = """
import sys
from agent_gym.tools.mcp.connection import Connection
from agent_gym.tools.mcp.server import ToolServer, serve_http, serve_stdio
tools, http, token = {tools!r}, {http!r}, {token!r}
if http is None:
    serve_stdio(lambda: ToolServer(tools, name="ours"))
else:
    server = ToolServer(tools, name="ours")
    serve_http(server, http, 0, token=token, announce=lambda url: print("at", url, flush=True))
"""


def command(*, http: str | None = None, token: str | None = None, tools: list[str] = TOOLS) -> list[str]:
    return [sys.executable, "-c", PROGRAM.format(tools=tools, http=http, token=token)]


def ask(box: Toolbox, name: str, **arguments: Any) -> ToolResult:
    return box.call(ToolCall(name, arguments))


@contextmanager
def served(token: str | None = None, **env: str) -> Iterator[str]:
    """Serve over HTTP; the address is given."""
    with subprocess.Popen(
        command(http="127.0.0.1", token=token), cwd=HERE, stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stdout is not None
        try:
            yield next(line.split()[1] for line in process.stdout if line.startswith("at "))
        finally:
            process.terminate()


@contextmanager
def named_pipe(path: Path) -> Iterator[int]:
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def heard(pipe: int) -> bytes:
    """Wait for something to come out of a pipe."""
    assert select.select([pipe], [], [], 60)[0] == [pipe]
    return os.read(pipe, 100)


@pytest.fixture(scope="module")
def open_url() -> Iterator[str]:
    with served() as url:
        yield url


@pytest.fixture(scope="module")
def guarded_url() -> Iterator[str]:
    """The address of a server that wants a token."""
    with served("geheim") as url:
        yield url


@pytest.fixture(params=["stdio", "http"])
def tools(request: pytest.FixtureRequest) -> list[Any]:
    if request.param == "stdio":
        return mcp_tools(command(), cwd=HERE, per_episode=True)
    return mcp_tools(request.getfixturevalue("open_url"), per_episode=True)


def test_tools_are_the_same_at_the_other_end(tools: list[Any]) -> None:
    ours = ToolServer([f"{HERE}/{reference}" for reference in TOOLS], name="ours")
    assert Toolbox(tools).schemas() == [
        {
            "type": "function",
            "function": {**schema["function"], "parameters": {"required": [], **schema["function"]["parameters"]}},
        }
        for schema in ours._toolbox.schemas()
    ]
    with Toolbox(tools) as first, Toolbox(tools) as second:
        assert ask(first, "lookup", word="grün 🍏").text == "🍏 nürg"
        assert ask(first, "lookup", word="ab", times="2").text == "baba"
        failed = ask(first, "lookup", word="no")
        assert (failed.status, failed.text) == ("error", "lookup failed: KeyError: 'no such word'")
        with pytest.raises(WorkerError, match="the sandbox is gone"):
            ask(first, "broken")
        counts = [ask(box, "counter").text for box in (first, first, second)]
        assert counts == ["1", "2", "1"]
        with first.fork() as twin:
            assert [ask(box, "counter").text for box in (twin, first, twin)] == ["3", "3", "4"]


@pytest.mark.parametrize("given_up", [False, True])
def test_calls_of_a_tool_with_a_state_are_taken_one_by_one(tmp_path: Path, given_up: bool) -> None:
    with named_pipe(tmp_path / "bell") as bell, named_pipe(tmp_path / "door") as door:
        session = Connection(ServerProcess(command(), {}, HERE), start_timeout=60)
        arguments = {"bell": str(tmp_path / "bell"), "door": str(tmp_path / "door")}
        first = session.call("gate", arguments)
        assert heard(bell) == b"x"
        if given_up:
            first.cancel()
        second = session.call("gate", arguments)
        for _ in range(2):  # by the second answer, the server has heard of all that came before
            assert session.call("lookup", {"word": "ab"}).result(60).text == "ba"
        os.write(door, b"go\n")
        assert heard(bell) == b"x"
        os.write(door, b"go\n")
        assert second.result(60).text == "1"
        if not given_up:
            assert first.result(60).text == "1"
        session.close()


def test_a_session_that_ends_closes_its_tools(tmp_path: Path) -> None:
    with named_pipe(tmp_path / "closed") as told, served(CLOSED_FILE=str(tmp_path / "closed")) as url:
        with Toolbox(mcp_tools(url, per_episode=True)) as box:
            ask(box, "counter", by=5)
            assert select.select([told], [], [], 0)[0] == []
        assert heard(told) == b"5\n"


def test_the_client_of_the_package_finds_a_session_by_itself(open_url: str) -> None:
    async def count(server: Any) -> list[str]:
        async with Client(server) as client:
            assert client.server_info is not None and client.server_info.name == "ours"
            answers = [await client.call_tool("counter", {}) for _ in range(2)]
        return [part.text for answer in answers for part in answer.content if isinstance(part, types.TextContent)]

    assert asyncio.run(count(open_url)) == ["1", "2"]
    parameters = StdioServerParameters(command=sys.executable, args=command()[1:], cwd=HERE)
    assert asyncio.run(count(parameters)) == ["1", "2"]


def test_a_client_that_wants_no_session_is_told_so(open_url: str) -> None:
    async def call() -> None:
        async with Client(open_url, mode="2026-07-28") as client:
            await client.call_tool("counter", {})

    with pytest.raises(BaseException) as caught:
        asyncio.run(call())
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, MCPError) and "begin with the initialize handshake" in str(error)


def test_only_the_protocol_is_on_standard_output() -> None:
    def message(number: int, method: str, **parameters: Any) -> str:
        return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": parameters})

    info = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    lines = [
        message(1, "initialize", **info),
        json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}),
        message(2, "tools/call", name="lookup", arguments={"word": "abc"}),
    ]
    process = subprocess.Popen(
        command(), cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.write("\n".join(lines) + "\n")
    process.stdin.flush()
    answers = [json.loads(process.stdout.readline()) for _ in range(2)]
    assert [answer["id"] for answer in answers] == [1, 2]
    assert answers[1]["result"]["content"] == [{"type": "text", "text": "cba"}]
    process.stdin.close()
    assert process.stdout.read() == "" and process.wait(60) == 0
    said = process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    for stray in ("importing tools", "and writing to the descriptor", "looking abc", "from a child"):
        assert stray in said


def test_what_is_no_tool_is_refused_before_anything_is_served() -> None:
    with pytest.raises(ToolError, match=r"Unknown tool 'calculater'.*did you mean 'calculator'"):
        ToolServer(["calculater"], name="ours")


@pytest.mark.parametrize(("given", "status"), [(None, 401), ("Bearer wrong", 401), ("Bearer geheim", 200)])
def test_a_token_keeps_others_out(guarded_url: str, given: str | None, status: int) -> None:
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
    }
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    request = urllib.request.Request(guarded_url, json.dumps(body).encode(), headers)
    if given is not None:
        request.add_header("Authorization", given)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            assert response.status == status
    except urllib.error.HTTPError as error:
        assert error.code == status
        error.close()


def test_the_client_sends_the_token(guarded_url: str) -> None:
    with Toolbox(mcp_tools(guarded_url, headers={"Authorization": "Bearer geheim"})) as box:
        assert ask(box, "lookup", word="abc").text == "cba"


def test_a_page_in_a_browser_cannot_use_the_tools(open_url: str) -> None:
    request = urllib.request.Request(open_url, b"{}", {"Host": "evil.example", "Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    assert caught.value.code == 421
    caught.value.close()


@pytest.mark.parametrize(
    ("host", "token", "message"),
    [
        ("0.0.0.0", None, "give a --token"),
        ("example.org", None, "give a --token"),
        ("127.0.0.1", "", "give a --token"),
        ("192.0.2.1", "geheim", "Nothing can be served at 192.0.2.1:0"),
    ],
)
def test_an_address_that_is_open_or_not_ours_is_refused(host: str, token: str | None, message: str) -> None:
    server = ToolServer(["calculator"], name="ours")
    with pytest.raises(ConfigError, match=message):
        serve_http(server, host, 0, token=token, announce=lambda url: None)
