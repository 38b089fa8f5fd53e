"""Servers with a state: one for each episode, forks that repeat the calls, and what happens where they cannot."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp_types", reason="needs the extra mcp")

from agent_gym.errors import ForkDiverged, WorkerError
from agent_gym.tools.base import Tool
from agent_gym.tools.calls import ToolCall, ToolResult
from agent_gym.tools.mcp import connection, mcp_tools, stdio
from agent_gym.tools.toolbox import Toolbox

Ended = Callable[[int], bool]


@pytest.fixture(scope="module")
def tools(raw: list[str]) -> list[Tool]:
    return mcp_tools(raw, per_episode=True)


@pytest.fixture
def box(tools: list[Tool]) -> Iterator[Toolbox]:
    with Toolbox(tools) as toolbox:
        toolbox.setup()
        yield toolbox


def ask(box: Toolbox, name: str, **arguments: Any) -> ToolResult:
    return box.call(ToolCall(name, arguments))


def pid_of(box: Toolbox) -> int:
    return int(ask(box, "pid").text)


def test_the_tools_of_an_episode_share_a_server_and_episodes_do_not(box: Toolbox, tools: list[Tool]) -> None:
    assert all(tool.stateful for tool in tools)
    with Toolbox(tools) as other:
        ask(box, "put", key="a", value=1)
        assert ask(box, "get", key="a").text == "1"
        assert ask(other, "get", key="a").text == "nothing"


def test_the_next_episode_starts_afresh_and_the_server_before_ends(box: Toolbox, ended: Ended) -> None:
    ask(box, "put", key="a", value=1)
    pid = pid_of(box)
    box.setup()
    assert ask(box, "get", key="a").text == "nothing"
    assert ended(pid)


def test_a_fork_is_in_the_same_state_and_goes_its_own_way(box: Toolbox, ended: Ended) -> None:
    ask(box, "put", key="a", value=1)
    ask(box, "get", key="a")
    with box.fork() as twin:
        assert ask(twin, "get", key="a").text == "1"
        ask(twin, "put", key="a", value=2)
        with twin.fork() as third:
            assert ask(third, "get", key="a").text == "2"
        assert ask(box, "get", key="a").text == "1"
        assert ask(twin, "get", key="a").text == "2"
        pid = pid_of(twin)
    assert ended(pid)
    assert ask(box, "get", key="a").text == "1"


def test_a_fork_before_the_first_call_has_a_server_of_its_own(box: Toolbox) -> None:
    with box.fork() as twin:
        ask(twin, "put", key="a", value=1)
        assert ask(box, "get", key="a").text == "nothing"


def test_forks_side_by_side_do_not_mix(box: Toolbox) -> None:
    twins = [box.fork() for _ in range(3)]
    for index, twin in enumerate(twins):
        ask(twin, "put", key="a", value=index)
    assert [ask(twin, "get", key="a").text for twin in twins] == ["0", "1", "2"]
    for twin in twins:
        twin.close()


def test_a_fork_whose_repeated_calls_are_answered_otherwise_is_refused(box: Toolbox) -> None:
    ask(box, "put", key="a", value=1)
    ask(box, "roll")
    with pytest.raises(ForkDiverged, match=r"answered call 2 \(roll\) in another way"):
        box.fork()
    assert ask(box, "get", key="a").text == "1"


def test_a_server_that_was_killed_comes_back_in_the_same_state(raw: list[str], ended: Ended, tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    with Toolbox(mcp_tools(raw, per_episode=True, env={"PID_FILE": str(noted)})) as box:
        ask(box, "put", key="a", value=1)
        pid = int(noted.read_text())
        os.kill(pid, signal.SIGKILL)
        assert ended(pid)
        assert ask(box, "get", key="a").text == "1"
        assert int(noted.read_text()) != pid


def test_a_server_that_does_not_come_back_in_the_same_state_is_an_engine_failure(box: Toolbox, ended: Ended) -> None:
    pid = pid_of(box)
    os.kill(pid, signal.SIGKILL)
    assert ended(pid)
    with pytest.raises(WorkerError, match="its state cannot be made again"):
        ask(box, "get", key="a")


def test_a_state_that_nobody_knows_is_not_forked(monkeypatch: pytest.MonkeyPatch, box: Toolbox) -> None:
    monkeypatch.setattr(connection, "_PROBE_SECONDS", 30.0)
    monkeypatch.setattr(stdio, "_GRACE_SECONDS", 0.1)
    ask(box, "put", key="a", value=1)
    box.tools["freeze"].timeout = 0.2
    assert ask(box, "freeze").status == "timeout"
    with pytest.raises(ForkDiverged, match="nobody knows its state"):
        box.fork()


def test_a_server_that_hung_comes_back_in_the_state_before(monkeypatch: pytest.MonkeyPatch, box: Toolbox) -> None:
    monkeypatch.setattr(connection, "_PROBE_SECONDS", 0.1)
    monkeypatch.setattr(stdio, "_GRACE_SECONDS", 0.1)
    ask(box, "put", key="a", value=1)
    box.tools["freeze"].timeout = 0.2
    assert ask(box, "freeze").status == "timeout"
    assert ask(box, "get", key="a").text == "1"
    with box.fork() as twin:
        assert ask(twin, "get", key="a").text == "1"


def test_closed_tools_begin_again_with_a_fresh_server(box: Toolbox) -> None:
    ask(box, "put", key="a", value=1)
    box.close()
    assert ask(box, "get", key="a").text == "nothing"


def test_toolboxes_with_different_tools_of_a_server_are_different_episodes(tools: list[Tool]) -> None:
    named = {tool.name: tool for tool in tools}
    with Toolbox([named["get"]]) as first, Toolbox([named["put"], named["get"]]) as second:
        first.setup()
        second.setup()
        ask(second, "put", key="a", value=1)
        assert ask(second, "get", key="a").text == "1"
        assert ask(first, "get", key="a").text == "nothing"
