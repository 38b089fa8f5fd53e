"""Toolboxes: budgets, time-outs, failures, forks, and what the model reads."""

import asyncio
import json
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_gym.errors import ConfigError, SandboxError, ToolError, WorkerError
from agent_gym.tools.base import Tool, tool
from agent_gym.tools.calls import ToolCall, ToolResult
from agent_gym.tools.episode import current_episode
from agent_gym.tools.toolbox import Toolbox


@tool
def add(a: int, b: int = 1) -> int:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b


class Notes(Tool):
    """Keeps notes."""

    def setup(self) -> None:
        self.lines: list[str] = []

    def run(self, line: str) -> str:
        self.lines.append(line)
        return "\n".join(self.lines)


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name, arguments, id="7")


def test_a_call_gives_the_value_as_json_with_the_name_and_id() -> None:
    result = Toolbox([add]).call(call("add", a="2"))
    assert (result.name, result.text, result.status, result.id, result.ok) == ("add", "3", "ok", "7", True)


def test_an_unknown_tool_is_answered_with_the_nearest() -> None:
    result = Toolbox([add]).call(call("ad"))
    assert result.status == "unknown"
    assert result.text == "There is no tool 'ad': did you mean 'add'? Known: add."


def test_arguments_that_do_not_fit_are_explained_without_a_traceback_or_address() -> None:
    result = Toolbox([add]).call(call("add", a="two", c=3))
    assert result.status == "invalid"
    assert result.text.startswith("add was not called: a: Input should be a valid integer")
    assert "unknown argument 'c'" in result.text and "Known: a, b" in result.text
    assert "pydantic" not in result.text and "Traceback" not in result.text


def test_a_call_that_could_not_be_read_is_answered_by_its_problem_and_runs_nothing() -> None:
    box = Toolbox([Notes])
    assert box.call(ToolCall("notes", {"line": "x"}, problem="Write it so.")) == ToolResult(
        "notes", "Write it so.", "invalid"
    )
    assert box.calls_made == 0 and box.call(call("notes", line="a")).text == "a"


def test_failures_of_a_tool_are_told_and_those_of_the_engine_are_raised() -> None:
    @tool
    def fail(how: str) -> str:
        raise {"type": TypeError("bad\x1b[2J"), "tool": ToolError("No such page."), "exit": SystemExit(3)}.get(
            how, SandboxError("the sandbox broke")
        )

    box = Toolbox([fail])
    assert box.call(call("fail", how="type")).text == "fail failed: TypeError: bad"
    assert box.call(call("fail", how="tool")).text == "No such page."
    assert box.call(call("fail", how="exit")).text == "fail failed: SystemExit: 3"
    assert box.call(call("fail", how="type")).status == "error"
    with pytest.raises(SandboxError):
        box.call(call("fail", how="engine"))


def test_an_error_that_cannot_be_printed_is_told_by_its_kind() -> None:
    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    @tool
    def fail() -> str:
        raise BrokenError

    assert Toolbox([fail]).call(call("fail")).text == "fail failed: BrokenError"


def test_a_blocking_tool_is_left_behind_when_its_time_is_over_and_counted() -> None:
    release, ended = threading.Event(), threading.Event()

    @tool(blocking=True, timeout=0.05)
    def wait() -> str:
        release.wait(10)
        ended.set()
        return "late"

    box = Toolbox([wait])
    result = box.call(call("wait"))
    assert (result.status, result.text) == ("timeout", "wait did not answer within 0.05 s.")
    assert box.abandoned == 1 and not ended.is_set()
    release.set()
    assert ended.wait(5)


def test_a_blocking_tool_that_answers_in_time_is_heard_and_its_own_time_out_is_an_error() -> None:
    @tool(blocking=True)
    def ask(how: str) -> str:
        if how == "raise":
            raise TimeoutError("the site is slow")
        return threading.current_thread().name

    box = Toolbox([ask])
    assert box.call(call("ask", how="say")).text == "agent-gym-tool"
    assert box.call(call("ask", how="raise")).text == "ask failed: TimeoutError: the site is slow"


def test_a_tool_that_does_not_wait_runs_here_and_now() -> None:
    @tool
    def where() -> str:
        return threading.current_thread().name

    assert Toolbox([where]).call(call("where")).text == threading.current_thread().name


def test_the_toolbox_may_shorten_a_time_out() -> None:
    @tool(blocking=True, timeout=100)
    def wait() -> None:
        released.wait(10)

    released = threading.Event()
    assert Toolbox([wait], timeout=0.01).call(call("wait")).text == "wait did not answer within 0.01 s."
    released.set()


@tool(timeout=20)
async def dawdle(seconds: float) -> str:
    """Wait."""
    await asyncio.sleep(seconds)
    return "woke"


def test_an_async_tool_is_called_from_anywhere_and_cancelled_when_its_time_is_over() -> None:
    box = Toolbox([dawdle])

    async def inside() -> list[ToolResult]:
        return [box.call(call("dawdle", seconds=0)), await box.call_async(call("dawdle", seconds=0))]

    assert [result.text for result in asyncio.run(inside())] == ["woke", "woke"]
    hasty = Toolbox([dawdle], timeout=0.05)
    late = hasty.call(call("dawdle", seconds=60))
    assert (late.status, late.text) == ("timeout", "dawdle did not answer within 0.05 s.")
    assert box.abandoned == hasty.abandoned == 0


def test_async_tools_keep_their_event_loop_from_call_to_call() -> None:
    @tool
    async def loop() -> int:
        return id(asyncio.get_running_loop())

    box = Toolbox([loop])
    assert box.call(call("loop")).text == asyncio.run(box.call_async(call("loop"))).text


def test_an_async_tool_that_blocks_its_loop_does_not_hinder_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_gym.tools.running._GRACE", 0.05)
    released = threading.Event()

    @tool(timeout=0.05)
    async def block() -> None:
        released.wait(10)

    box = Toolbox([block, dawdle])
    assert box.call(call("block")).status == "timeout"
    assert box.abandoned == 1
    assert box.call(call("dawdle", seconds=0)).text == "woke"
    released.set()


def test_a_waiting_tool_does_not_keep_the_event_loop_from_other_work() -> None:
    started, go_on = threading.Event(), threading.Event()

    @tool(blocking=True, timeout=10)
    def wait() -> str:
        started.set()
        return "free" if go_on.wait(10) else "stuck"

    async def both() -> str:
        waiting = asyncio.create_task(Toolbox([wait]).call_async(call("wait")))
        while not started.is_set():
            await asyncio.sleep(0.001)
        go_on.set()
        return (await waiting).text

    assert asyncio.run(both()) == "free"


def test_cancelling_the_caller_cancels_the_tool() -> None:
    begun, cancelled = threading.Event(), threading.Event()

    @tool
    async def wait() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    async def give_up() -> None:
        waiting = asyncio.create_task(Toolbox([wait]).call_async(call("wait")))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(give_up())
    assert cancelled.wait(30)


def test_an_async_tool_that_cancels_itself_has_failed() -> None:
    @tool
    async def quit() -> None:
        raise asyncio.CancelledError

    box = Toolbox([quit])
    assert box.call(call("quit")).text == "quit failed: CancelledError"
    assert asyncio.run(box.call_async(call("quit"))).text == "quit failed: CancelledError"


def test_a_machine_without_threads_is_no_fault_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    @tool(blocking=True)
    def wait() -> None: ...

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(WorkerError, match="run fewer episodes"):
        Toolbox([wait]).call(call("wait"))


def test_budgets_hold_for_a_tool_and_for_all_and_spare_those_that_end_the_episode() -> None:
    @tool(max_calls=1)
    def once() -> str:
        return "done"

    @tool(final=True)
    def finish() -> str:
        return "bye"

    box = Toolbox([once, add, finish], max_calls=2)
    assert box.call(call("once")).ok
    assert box.call(call("once")).text == "No calls of once are left: an episode has 1."
    assert box.call(call("add", a="x")).status == "invalid"
    assert box.call(call("add", a=1)).ok and box.calls_made == 2
    assert box.call(call("add", a=1)).text == "No tool calls are left: an episode has 2."
    assert box.call(call("add", a=1)).status == "budget"
    ended = box.call(call("finish"))
    assert ended.ok and ended.final
    box.setup()
    assert box.calls_made == 0 and box.call(call("once")).ok


def test_a_fork_goes_on_from_the_same_state_and_neither_disturbs_the_other() -> None:
    box = Toolbox([Notes, add], max_calls=3)
    box.call(call("notes", line="a"))
    twin = box.fork()
    assert twin.call(call("notes", line="b")).text == "a\nb"
    assert box.call(call("notes", line="c")).text == "a\nc"
    box.call(call("add", a=1))
    assert (box.calls_made, twin.calls_made) == (3, 2)
    twin.setup()
    assert twin.call(call("notes", line="x")).text == "x" and box.tools["notes"].lines == ["a", "c"]


def test_a_fork_that_fails_lets_go_of_the_tools_that_were_forked() -> None:
    closed: list[Tool] = []

    class Open(Notes):
        def close(self) -> None:
            closed.append(self)

    class Stuck(Notes):
        def fork(self) -> "Stuck":
            raise SandboxError("no memory")

    box = Toolbox([Open, Stuck])
    box.call(call("open", line="a"))
    with pytest.raises(SandboxError):
        box.fork()
    assert len(closed) == 1 and closed[0] is not box.tools["open"]
    assert box.call(call("open", line="b")).text == "a\nb"


def test_tools_find_those_that_they_are_set_up_and_forked_with() -> None:
    met: list[tuple[str, object]] = []

    class Guest(Notes):
        def setup(self) -> None:
            met.append((self.name, current_episode()))

        def fork(self) -> "Guest":
            met.append((self.name, current_episode()))
            return self

    class Visitor(Guest): ...

    box = Toolbox([Guest, Visitor])
    box.setup()
    box.fork()
    Toolbox([Guest]).setup()
    episodes = [episode for _, episode in met]
    assert episodes[0] == episodes[1] and episodes[2] == episodes[3]
    assert len({episodes[0], episodes[2]}) == 2


def test_one_tool_object_serves_many_toolboxes() -> None:
    notes = Notes()
    first, second = Toolbox([notes]), Toolbox([notes])
    first.call(call("notes", line="a"))
    assert second.call(call("notes", line="b")).text == "b"


def test_every_tool_is_closed_even_if_one_fails_to() -> None:
    closed = []

    class Stubborn(Tool):
        def run(self) -> str:
            return ""

        def close(self) -> None:
            closed.append(self.name)
            raise RuntimeError(self.name)

    class Other(Stubborn): ...

    with pytest.raises(RuntimeError), Toolbox([Stubborn(), _named(Stubborn(), "other")]):
        pass
    assert sorted(closed) == ["other", "stubborn"]


def _named(given: Tool, name: str) -> Tool:
    given.name = name
    return given


def test_a_tool_that_cannot_be_set_up_is_named() -> None:
    class Dead(Tool):
        def setup(self) -> None:
            raise OSError("no such file")

        def run(self) -> str:
            return ""

    box = Toolbox([Dead])
    for _ in range(2):
        with pytest.raises(ToolError, match=r"The tool 'dead' cannot be set up: OSError: no such file\."):
            box.call(call("dead"))


def test_two_tools_of_one_name_and_senseless_limits_are_refused() -> None:
    with pytest.raises(ToolError, match="Two tools have the name 'add'"):
        Toolbox([add, add])
    with pytest.raises(ConfigError, match="max_calls of a toolbox must be more than 0, not 0"):
        Toolbox([add], max_calls=0)


def test_the_tools_are_described_for_a_prompt_and_for_a_server() -> None:
    box = Toolbox([add])
    assert box.describe() == ("add(a: integer, b: integer?): Add two numbers.\n  a: The first.\n  b: The second.")
    [schema] = box.schemas()
    assert schema["type"] == "function" and schema["function"]["name"] == "add"
    assert json.loads(json.dumps(schema))["function"]["parameters"]["required"] == ["a"]


def test_a_result_with_a_status_of_its_own_keeps_it() -> None:
    @tool(final=True)
    def half() -> ToolResult:
        return ToolResult("", "partly", "error")

    result = Toolbox([half]).call(call("half"))
    assert (result.name, result.text, result.status, result.final) == ("half", "partly", "error", False)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(
    st.sampled_from(["add", "notes", "", "x" * 500]), st.dictionaries(st.sampled_from(["a", "b", "line", ""]), ANYTHING)
)
def test_no_call_raises(name: str, arguments: dict[str, Any]) -> None:
    result = Toolbox([add, Notes]).call(ToolCall(name, arguments))
    result.text.encode("utf-8")
    assert len(result.text) < 2_000 or result.ok


def test_the_time_of_a_call_is_measured() -> None:
    @tool
    def spin() -> None:
        until = time.perf_counter() + 0.01
        while time.perf_counter() < until:
            pass

    assert Toolbox([spin]).call(call("spin")).seconds >= 0.01
