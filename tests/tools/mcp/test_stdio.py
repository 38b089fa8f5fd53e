"""Servers that are processes of ours and misbehave: they die, hang, chatter, answer too much, or do not start."""

import asyncio
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import until

pytest.importorskip("mcp_types", reason="needs the extra mcp")

from agent_gym.errors import ToolError, WorkerError
from agent_gym.tools.calls import ToolCall, ToolResult
from agent_gym.tools.mcp import connection, mcp_tools, stdio
from agent_gym.tools.mcp.stdio import Line, Lines, ServerProcess, _Pipes
from agent_gym.tools.toolbox import Toolbox

Ended = Callable[[int], bool]


def ask(box: Toolbox, name: str, **arguments: Any) -> ToolResult:
    return box.call(ToolCall(name, arguments))


def threads() -> set[int | None]:
    """Return the threads that there are, but for those that the loop may add for its own use whenever it is busy."""
    return {thread.ident for thread in threading.enumerate() if not thread.name.startswith("asyncio_")}


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["no-such-program"], "'no-such-program' cannot be used .*No such file"),
        (["{python}", "{raw}", "crash"], "its process ended with code 1, and it said 'no such library'"),
        (["cat", "/dev/null"], "its process ended with code 0"),
    ],
)
def test_a_server_that_does_not_start_is_an_error_that_says_why(
    raw: list[str], command: list[str], message: str
) -> None:
    before = threading.active_count()
    filled = [part.format(python=sys.executable, raw=raw[-1]) for part in command]
    with pytest.raises(ToolError, match=message):
        mcp_tools(filled)
    assert until(lambda: threading.active_count() <= before)


def test_a_server_that_never_answers_is_an_error_that_tells_what_it_wrote_instead(raw: list[str]) -> None:
    message = "not ready within 5 s, .*, and it wrote 'Welcome to the server!' to standard output"
    with pytest.raises(ToolError, match=message):
        mcp_tools([*raw, "banner", "silent"], start_timeout=5.0)


def test_a_command_line_is_taken_apart_as_a_shell_does(raw: list[str]) -> None:
    with Toolbox(mcp_tools(f"{sys.executable} '{raw[-1]}' banner")) as box:
        assert ask(box, "pid").ok


def test_a_server_that_knows_no_handshake_is_spoken_to_without(raw: list[str]) -> None:
    with Toolbox(mcp_tools([*raw, "modern"])) as box:
        assert ask(box, "put", key="a", value=[1, None]).text == "kept"
        assert ask(box, "get", key="a").text == "[1, None]"


def test_lines_that_are_no_message_are_passed_over(raw: list[str]) -> None:
    with Toolbox(mcp_tools([*raw, "banner"])) as box:
        assert ask(box, "garble").text == "said"
        assert ask(box, "garble").text == "said"


def test_an_answer_that_cannot_be_read_is_an_error_and_not_a_long_wait(raw: list[str]) -> None:
    with Toolbox(mcp_tools(raw)) as box:
        result = ask(box, "break")
        assert (result.status, result.text) == ("error", "its answer is not valid JSON of the protocol")
        assert ask(box, "pid").ok


def test_an_answer_that_is_too_long_is_an_error_and_the_server_goes_on(raw: list[str]) -> None:
    with Toolbox(mcp_tools(raw)) as box:
        pid = ask(box, "pid").text
        result = ask(box, "long", size=17 * 1024 * 1024)
        assert (result.status, result.text) == ("error", "its answer is longer than 16777216 bytes")
        assert ask(box, "long", size=1_000_000).text.startswith("xxx")
        assert ask(box, "pid").text == pid


def test_a_server_that_was_killed_is_started_again(raw: list[str], ended: Ended) -> None:
    with Toolbox(mcp_tools(raw)) as box:
        pid = int(ask(box, "pid").text)
        os.kill(pid, signal.SIGKILL)
        assert ended(pid)
        again = ask(box, "pid")
        assert again.ok and int(again.text) != pid


def test_a_server_that_dies_of_a_call_twice_is_an_engine_failure(raw: list[str]) -> None:
    with Toolbox(mcp_tools(raw)) as box:
        message = "lost twice in a call of die .*ended with code 9, and it said 'dying of it'"
        with pytest.raises(WorkerError, match=message):
            ask(box, "die")
        assert ask(box, "pid").ok


def test_a_server_that_cannot_be_started_again_is_an_engine_failure(
    raw: list[str], ended: Ended, tmp_path: Path
) -> None:
    program = tmp_path / "server.py"
    shutil.copy(raw[-1], program)
    with Toolbox(mcp_tools([sys.executable, str(program)])) as box:
        pid = int(ask(box, "pid").text)
        program.unlink()
        os.kill(pid, signal.SIGKILL)
        assert ended(pid)
        with pytest.raises(WorkerError, match=r"cannot be used .*can't open file"):
            ask(box, "pid")
        with pytest.raises(WorkerError):
            box.setup()


def test_a_server_that_hangs_is_given_up_and_replaced(
    raw: list[str], ended: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_PROBE_SECONDS", 0.1)
    monkeypatch.setattr(stdio, "_GRACE_SECONDS", 0.1)
    with Toolbox(mcp_tools(raw)) as box:
        pid = int(ask(box, "pid").text)
        box.tools["freeze"].timeout = 0.2
        assert ask(box, "freeze").status == "timeout"
        again = ask(box, "pid")
        assert again.ok and int(again.text) != pid
        assert ended(pid)


def test_closing_ends_a_server_that_does_not_want_to_and_its_children(
    raw: list[str], ended: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdio, "_GRACE_SECONDS", 0.1)
    with Toolbox(mcp_tools([*raw, "stubborn"])) as box:
        pid, child = int(ask(box, "pid").text), int(ask(box, "child").text)
    assert ended(pid) and ended(child)


def test_closing_leaves_no_thread_process_or_descriptor(raw: list[str], ended: Ended) -> None:
    pids: list[int] = []

    def episode() -> None:
        with Toolbox(mcp_tools(raw)) as box:
            pids.append(int(ask(box, "pid").text))

    episode()  # the loop on which async tools run stays
    before, opened = threads(), descriptors()
    for _ in range(3):
        episode()
    # The thread that waits for a process ends a moment after the process has.
    assert until(lambda: threads() <= before and descriptors() <= opened)
    assert all(ended(pid) for pid in pids)


def test_a_server_whose_tools_are_forgotten_ends(raw: list[str], ended: Ended) -> None:
    box = Toolbox(mcp_tools(raw))
    pid = int(ask(box, "pid").text)
    del box
    gc.collect()
    assert ended(pid)


def test_the_last_of_two_episodes_ends_the_server(raw: list[str], ended: Ended) -> None:
    first, second = Toolbox(mcp_tools(raw)), Toolbox(mcp_tools(raw))
    pid = int(ask(first, "pid").text)
    assert ask(second, "pid").text == str(pid)
    first.close()
    assert ask(second, "pid").text == str(pid)
    second.close()
    assert ended(pid)


@pytest.mark.parametrize(
    ("habit", "end"), [("stubborn", "stdio._GRACE_SECONDS = 0.1"), ("", "import os; os.kill(os.getpid(), 9)")]
)
def test_no_server_outlives_the_interpreter(raw: list[str], ended: Ended, habit: str, end: str) -> None:
    program = f"""
from agent_gym.tools.mcp import stdio
from agent_gym.tools.mcp import mcp_tools
from agent_gym.tools.toolbox import Toolbox
from agent_gym.tools.calls import ToolCall
box = Toolbox(mcp_tools({[*raw, habit]!r}))
print(box.call(ToolCall("pid")).text, flush=True)
{end}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert ended(int(done.stdout)) and done.stderr == ""


def test_a_process_that_was_forked_has_a_server_of_its_own(raw: list[str]) -> None:
    program = f"""
import os, sys
from agent_gym.tools.mcp import mcp_tools
from agent_gym.tools.toolbox import Toolbox
from agent_gym.tools.calls import ToolCall
box = Toolbox(mcp_tools({raw!r}))
ask = lambda: box.call(ToolCall("pid")).text
ours = ask()
if os.fork() == 0:
    assert ask() != ours
    box.close()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
assert ask() == ours
box.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_call_under_way_is_lost_when_the_connection_is_closed(
    raw: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look_slowly(self: connection.Connection) -> bool:
        while "ended with code" not in self.server.trouble:
            await asyncio.sleep(0)
        for _ in range(100):  # the connection could have ended by now
            await asyncio.sleep(0)
        return False

    monkeypatch.setattr(connection.Connection, "_is_there", look_slowly)
    waiting = connection.Connection(ServerProcess(raw, {}, None), start_timeout=60)
    call = waiting.call("wait", {})
    waiting.close()
    with pytest.raises(connection.Lost):
        call.result(60)
    with pytest.raises(connection.Lost):
        waiting.call("pid", {})


class _Output:
    """The server's output, as far as it can be held up."""

    reading = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_pipe_transport(self, fd: int) -> "_Output":
        return self


def test_a_server_that_writes_faster_than_it_is_understood_has_to_wait() -> None:
    async def fill_and_empty() -> list[bool]:
        output, pipes = _Output(), _Pipes()
        pipes.connection_made(output)  # type: ignore[arg-type]
        seen = []
        for _ in range(100):
            pipes.pipe_data_received(1, b"line\n")
        seen.append(output.reading)
        for _ in range(100):
            await pipes.line()
        return [*seen, output.reading]

    assert asyncio.run(fill_and_empty()) == [False, True]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_lines_are_cut_whatever_the_pieces_are(size: int) -> None:
    stream = b'one\n\n{"id": 2}\n' + b"a" * 60 + b"\nlast\nrest"
    lines = Lines(limit=50)
    got = [line for start in range(0, len(stream), size) for line in lines.feed(stream[start : start + size])]
    assert [line.head for line in got if line.tail is None] == [b"one", b"", b'{"id": 2}', b"last"]
    (long,) = (line for line in got if line.tail is not None)
    assert long.head[:50] == b"a" * 50 and set(long.tail or b"") == {ord("a")}


@pytest.mark.parametrize(
    ("line", "request_id"),
    [
        (Line(b'{"jsonrpc": "2.0", "id": 7, "result": {"content": '), 7),
        (Line(b'{"id":7,"result":{', b'..."}]}}'), 7),
        (Line(b'{"result":{"content":[{"type":"text","text":"', b'x"}]},"jsonrpc":"2.0","id":12}'), 12),
        (Line(b'{"result":{"text":"', b'"id":3 x"},"id":12,"jsonrpc":"2.0"}  '), 12),
        (Line(b'{"result":{"text":"', b'\\"id\\":3}"}}'), None),
        (Line(b"Listening, with id 5"), None),
    ],
)
def test_an_unreadable_line_tells_which_request_it_answers(line: Line, request_id: int | None) -> None:
    assert line.request == request_id
