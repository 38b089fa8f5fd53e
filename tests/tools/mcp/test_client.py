"""A server's tools in a toolbox: what a model reads of them, and of their answers."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("mcp_types", reason="needs the extra mcp")

from agent_gym.errors import ConfigError, ToolError
from agent_gym.tools.calls import ToolCall, ToolResult
from agent_gym.tools.mcp import mcp_tools
from agent_gym.tools.toolbox import Toolbox


@pytest.fixture(scope="module")
def box(things: list[str]) -> Iterator[Toolbox]:
    with Toolbox(mcp_tools(things, env={"GREETING": "hello"})) as toolbox:
        toolbox.setup()
        yield toolbox


def ask(box: Toolbox, name: str, **arguments: Any) -> ToolResult:
    return box.call(ToolCall(name, arguments))


def test_a_tool_is_what_its_server_says_of_it(box: Toolbox) -> None:
    put = next(schema["function"] for schema in box.schemas() if schema["function"]["name"] == "put")
    assert put["description"] == "Keep a value.\n\nArgs:\n    key: What to call it."
    assert put["parameters"]["required"] == ["key", "value"]
    assert put["parameters"]["properties"]["times"]["type"] == "integer"
    assert box.blocking and not box.tools["put"].stateful


def test_a_call_is_answered_by_the_server(box: Toolbox) -> None:
    assert ask(box, "put", key="grün", value="Äpfel 🍏").text == "kept grün"
    result = ask(box, "get", key="grün")
    assert (result.text, result.status) == ("Äpfel 🍏", "ok")


def test_a_broken_character_of_a_model_does_not_break_the_connection(box: Toolbox) -> None:
    ask(box, "put", key="half", value="a\ud83d")
    assert ask(box, "get", key="half").text == "a?"


def test_what_the_tool_raises_is_an_observation(box: Toolbox) -> None:
    result = ask(box, "get", key="nowhere")
    assert result.status == "error" and "get" in result.text


def test_arguments_are_checked_before_the_server_is_asked_and_texts_are_read(box: Toolbox) -> None:
    assert ask(box, "put", key="a").text == "put was not called: value: this argument is missing."
    assert "unknown argument 'kee': did you mean 'key'" in ask(box, "get", kee="a").text
    assert ask(box, "put", key="a", value="b", times="many").text == (
        "put was not called: times: should be integer, not string."
    )
    assert ask(box, "put", key="a", value="b", times="3").ok
    assert ask(box, "get", key="a").text == "bbb"


def test_what_is_no_text_is_named(box: Toolbox) -> None:
    assert ask(box, "picture").text.splitlines() == [
        "two pictures:",
        "[image/png, 1234 bytes]",
        "[audio/wav, 3 bytes]",
        "a note",
        "[blob://1: binary, 1 bytes]",
        "[plan: file:///plan.txt, the plan]",
    ]


def test_structured_content_is_shown_once(box: Toolbox) -> None:
    assert ask(box, "measure").text.replace("\n", "").replace(" ", "") == '{"width":3,"unit":"m"}'


def test_a_name_that_models_cannot_write_is_changed(box: Toolbox) -> None:
    assert ask(box, "odd_name_1").text == "odd"


def test_the_server_gets_a_clean_environment(box: Toolbox, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set(ask(box, "environment").text.split())
    assert {"PATH", "GREETING"} <= names
    ours = set(os.environ) - {"HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"}
    assert ours and not names & (ours - {"LC_CTYPE"})  # an interpreter sets that itself


def test_a_call_that_takes_too_long_is_given_up_and_the_connection_stays(box: Toolbox) -> None:
    before = ask(box, "pid").text
    box.tools["stall"].timeout = 0.2
    late = ask(box, "stall")
    assert (late.text, late.status) == ("stall did not answer within 0.2 s.", "timeout")
    assert ask(box, "pid").text == before


def test_calls_come_from_any_thread_at_once(box: Toolbox) -> None:
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(box, "long", size=1000).text)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["x" * 1000] * 8


def test_calls_can_be_awaited_on_any_loop(box: Toolbox) -> None:
    async def several() -> list[Any]:
        calls = (box.tools["long"].run(size=size) for size in (1, 2, 3))
        return await asyncio.gather(*calls, box.call_async(ToolCall("pid")))

    for _ in range(2):
        *texts, pid = asyncio.run(several())
        assert texts == ["x", "xx", "xxx"] and pid.ok


def test_episodes_and_forks_share_the_server(box: Toolbox, things: list[str]) -> None:
    with box.fork() as twin, Toolbox(mcp_tools(things, env={"GREETING": "hello"})) as other:
        assert ask(twin, "pid").text == ask(other, "pid").text == ask(box, "pid").text
    assert ask(box, "pid").ok


def test_another_environment_means_another_server(box: Toolbox, things: list[str]) -> None:
    with Toolbox(mcp_tools(things)) as other:
        assert ask(other, "pid").text != ask(box, "pid").text


def test_an_episode_begins_with_what_the_server_says_by_then(things: list[str], ended: Callable[[int], bool]) -> None:
    with Toolbox(mcp_tools(things, env={"A": "server of its own"})) as box:
        pid = int(ask(box, "pid").text)
        assert ask(box, "change").ok
        assert ask(box, "pid").text == str(pid)  # by this answer, the notification before it has been heard
        assert box.tools["get"].description == "Return a value that was kept."
        with pytest.raises(ToolError, match="no longer has a tool 'measure'"):
            box.setup()
        assert box.tools["get"].description == "Return a value, gladly."
    assert ended(pid)


@pytest.mark.parametrize(
    ("server", "options", "message"),
    [
        ("", {}, "it is empty"),
        ("python 'server.py", {}, "cannot be read"),
        ("python server.py", {"headers": {"a": "b"}}, "headers are for a server at an address"),
        ("http://127.0.0.1:port/mcp", {}, "address of the tool server cannot be read"),
        ("http://127.0.0.1/mcp", {"env": {}}, "env and cwd are for a server that is started here"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(server: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mcp_tools(server, **options)
