"""Servers at an address: streamable HTTP, the older event stream, and what goes wrong on the way."""

import asyncio
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("mcp_types", reason="needs the extra mcp")

from mcp.shared import jsonrpc_dispatcher

from agent_gym.errors import ToolError, WorkerError
from agent_gym.tools.calls import ToolCall, ToolResult
from agent_gym.tools.mcp import connection, http, mcp_tools
from agent_gym.tools.toolbox import Toolbox

Serving = Callable[..., tuple[str, "subprocess.Popen[str]"]]


def ask(box: Toolbox, name: str, **arguments: Any) -> ToolResult:
    return box.call(ToolCall(name, arguments))


@pytest.fixture(scope="module")
def standing(things: list[str]) -> Iterator[str]:
    """The address of a server that stays."""
    with subprocess.Popen([*things, "http"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
        process.kill()


@pytest.mark.parametrize("kind", ["http", "json", "sse"])
def test_a_server_at_an_address_is_used_like_any_other(serving: Serving, kind: str) -> None:
    url, process = serving(kind)
    before = {thread for thread in threading.enumerate() if thread.name == "agent-gym-mcp"}
    with Toolbox(mcp_tools(url)) as box:
        assert ask(box, "put", key="grün", value="Äpfel 🍏").ok
        assert ask(box, "get", key="grün").text == "Äpfel 🍏"
        assert ask(box, "get", key="nowhere").status == "error"
        box.tools["stall"].timeout = 0.2
        assert ask(box, "stall").status == "timeout"
        assert ask(box, "pid").text == str(process.pid)
        if kind != "sse":
            long = ask(box, "long", size=17 * 1024 * 1024)
            assert long.status == "error" and long.text != ""
            assert ask(box, "long", size=2_000_000).text.startswith("xxx")
        assert ask(box, "get", key="grün").ok
    assert {thread for thread in threading.enumerate() if thread.name == "agent-gym-mcp"} == before
    assert process.poll() is None


def test_a_server_that_was_started_again_is_found_again(serving: Serving) -> None:
    url, process = serving("http")
    with Toolbox(mcp_tools(url)) as box:
        assert ask(box, "pid").text == str(process.pid)
        process.kill()
        process.wait()
        _, another = serving("http", int(url.split(":")[2].split("/")[0]))
        assert ask(box, "pid").text == str(another.pid)


def test_a_server_that_is_gone_is_an_engine_failure(serving: Serving) -> None:
    url, process = serving("http")
    with Toolbox(mcp_tools(url)) as box:
        assert ask(box, "pid").ok
        process.kill()
        process.wait()
        with pytest.raises(WorkerError, match="cannot be used"):
            ask(box, "pid")


def test_a_server_that_dies_in_the_middle_of_a_call_is_noticed(serving: Serving) -> None:
    url, process = serving("http")

    async def kill_it() -> Any:
        with Toolbox(mcp_tools(url)) as box:
            stalled = asyncio.create_task(box.call_async(ToolCall("stall")))
            assert (await box.call_async(ToolCall("pid"))).ok  # the call before this one has been sent by now
            process.kill()
            process.wait()
            return await stalled

    with pytest.raises(WorkerError, match="cannot be used"):
        asyncio.run(kill_it())


def test_a_server_that_hangs_is_an_engine_failure_where_it_is_not_ours_to_start(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_PROBE_SECONDS", 0.1)
    monkeypatch.setattr(http, "_FAREWELL_SECONDS", 0.1)
    monkeypatch.setattr(jsonrpc_dispatcher, "_ABANDON_WRITE_TIMEOUT", 0.1)
    url, process = serving("http")
    with Toolbox(mcp_tools(url)) as box:
        assert ask(box, "pid").ok
        link = box.tools["pid"]._link  # type: ignore[attr-defined]
        process.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(link, "_start_timeout", 0.2)
        box.tools["pid"].timeout = 0.2
        assert ask(box, "pid").status == "timeout"
        box.tools["pid"].timeout = 60
        with pytest.raises(WorkerError, match=r"not ready within 0\.2 s"):
            ask(box, "pid")
        monkeypatch.undo()
        process.send_signal(signal.SIGCONT)
        assert ask(box, "pid").ok


def test_each_episode_may_have_a_session_of_its_own(standing: str) -> None:
    tools = mcp_tools(standing, per_episode=True)
    with Toolbox(tools) as first, Toolbox(tools) as second:
        assert ask(first, "pid").text == ask(second, "pid").text
        links = [box.tools["pid"]._link for box in (first, second)]  # type: ignore[attr-defined]
        assert links[0] is not links[1]


def test_an_address_where_nothing_is_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/mcp"
    with pytest.raises(ToolError, match=f"The tool server {url} cannot be used"):
        mcp_tools(url)


def test_a_place_where_something_else_is_is_an_error(standing: str) -> None:
    with pytest.raises(ToolError, match="it answered 404 Not Found"):
        mcp_tools(standing.replace("/mcp", "/nowhere"))


def test_a_password_in_an_address_is_not_shown() -> None:
    with pytest.raises(ToolError) as caught:
        mcp_tools("http://user:secret@127.0.0.1:1/mcp?key=secret")
    assert "secret" not in str(caught.value) and "127.0.0.1:1/mcp" in str(caught.value)
