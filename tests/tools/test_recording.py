"""Recordings: what is kept, what comes back, and what several processes and a kill leave of the file."""

import asyncio
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_gym.errors import SandboxError, ToolError, UnknownIdError
from agent_gym.tools.base import NotRecordedError, Tool, tool
from agent_gym.tools.calls import ToolCall
from agent_gym.tools.finish import answer
from agent_gym.tools.recording import Mode, Recording, record, replay
from agent_gym.tools.toolbox import Toolbox


class Web:
    """A tool that would cost money; counts how often it is asked, and may change its answers."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def tool(self) -> Tool:
        @tool
        def search(query: str, limit: int = 5) -> str:
            self.asked.append(query)
            if query == "broken":
                raise ValueError("503")
            if query == "engine":
                raise SandboxError("the sandbox failed")
            return f"{query} {self.asked.count(query)}" if query == "news" else f"all about {query}"

        return search


class Ledger(Tool):
    """Adds up what it is given."""

    ran: list[int] = []  # noqa: RUF012 - seen from outside

    def setup(self) -> None:
        self.total = 0

    def run(self, amount: int) -> int:
        self.ran.append(amount)
        self.total += amount
        return self.total


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "web.jsonl"


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    Ledger.ran.clear()


def ask(box: Toolbox, query: Any, **more: Any) -> str:
    return box.call(ToolCall("search", {"query": query, **more}, id="9")).text


def add(box: Toolbox, *amounts: int) -> list[str]:
    return [box.call(ToolCall("ledger", {"amount": amount})).text for amount in amounts]


def test_what_was_recorded_is_replayed_without_asking(path: Path) -> None:
    web = Web()
    box = Toolbox([web.tool()], recording=record(path))
    first = [ask(box, "Rome"), ask(box, "broken"), ask(box, "Rome", limit=2)]
    offline = Toolbox([web.tool()], recording=replay(path))
    assert [ask(offline, "Rome"), ask(offline, "broken"), ask(offline, "Rome", limit="2")] == first
    assert web.asked == ["Rome", "broken", "Rome"]
    result = offline.call(ToolCall("search", {"query": "broken"}, id="9"))
    assert (result.status, result.text, result.id, result.name) == (
        "error",
        "search failed: ValueError: 503",
        "9",
        "search",
    )
    assert offline.calls_made == 4


def test_a_call_that_is_missing_is_named_with_the_remedy(path: Path) -> None:
    web = Web()
    ask(Toolbox([web.tool()], recording=record(path)), "Rome")
    with pytest.raises(NotRecordedError, match=r'lacks the call search\({"query": "Paris"}\): record it with the mode'):
        ask(Toolbox([web.tool()], recording=replay(path)), "Paris")
    with pytest.raises(ToolError, match=r"There is no recording .*: make one with the mode 'record'"):
        replay(path.with_name("other.jsonl"))


def test_auto_runs_what_is_not_known_and_keeps_it(path: Path) -> None:
    web = Web()
    for _ in range(2):
        box = Toolbox([web.tool()], recording=Recording(path))
        assert [ask(box, "Rome"), ask(box, "Rome")] == ["all about Rome"] * 2
    assert web.asked == ["Rome"]


def test_a_repeated_call_gets_what_it_got_each_time(path: Path) -> None:
    web = Web()
    box = Toolbox([web.tool()], recording=record(path))
    told = [ask(box, "news"), ask(box, "news"), ask(box, "Rome"), ask(box, "Rome")]
    assert told[:2] == ["news 1", "news 2"]
    offline = Toolbox([web.tool()], recording=replay(path))
    for _ in range(2):
        offline.setup()
        assert [ask(offline, "news"), ask(offline, "news"), ask(offline, "Rome"), ask(offline, "Rome")] == told
    assert ask(offline, "news") == "news 2"
    # What came twice is kept once.
    assert sum("Rome" in line for line in path.read_text().splitlines()) == 1


def test_recording_again_brings_a_result_up_to_date(path: Path) -> None:
    web = Web()
    ask(Toolbox([web.tool()], recording=record(path)), "news")
    ask(Toolbox([web.tool()], recording=record(path)), "news")
    assert ask(Toolbox([web.tool()], recording=replay(path)), "news") == "news 2"


def test_failures_of_the_engine_are_not_kept(path: Path) -> None:
    web = Web()
    box = Toolbox([web.tool()], recording=record(path))
    with pytest.raises(SandboxError):
        ask(box, "engine")
    assert not path.exists()


def test_a_tool_with_a_state_is_refused_unless_its_history_counts(path: Path) -> None:
    with pytest.raises(ToolError, match=r"'ledger' keeps a state from call to call, .*history=True"):
        Toolbox([Ledger], recording=record(path))


def test_with_the_history_a_tool_with_a_state_is_right_after_any_calls(path: Path) -> None:
    for amounts in ((1, 2), (2, 2)):
        add(Toolbox([Ledger], recording=record(path, history=True)), *amounts)
    Ledger.ran.clear()
    offline = replay(path, history=True)
    assert add(Toolbox([Ledger], recording=offline), 1, 2) == ["1", "3"]
    assert add(Toolbox([Ledger], recording=offline), 2, 2) == ["2", "4"]
    with pytest.raises(NotRecordedError):
        add(Toolbox([Ledger], recording=offline), 1, 1)
    assert Ledger.ran == []


def test_a_tool_with_a_state_catches_up_before_it_runs(path: Path) -> None:
    add(Toolbox([Ledger], recording=record(path, history=True)), 1, 2)
    Ledger.ran.clear()
    box = Toolbox([Ledger], recording=Recording(path, history=True))
    assert add(box, 1, 2) == ["1", "3"] and Ledger.ran == []
    assert add(box, 10, 1) == ["13", "14"]
    assert Ledger.ran == [1, 2, 10, 1]


def test_a_fork_inherits_the_history_and_goes_its_own_way(path: Path) -> None:
    def play(recording: Recording) -> list[str]:
        box = Toolbox([Ledger], recording=recording)
        told = add(box, 1)
        twin = box.fork()
        return told + add(box, 2) + add(twin, 5, 2) + add(box, 3)

    told = play(record(path, history=True))
    assert told == ["1", "3", "6", "8", "6"]
    Ledger.ran.clear()
    assert play(replay(path, history=True)) == told and Ledger.ran == []
    # The fork owes its own tool the call that the recording answered before the fork.
    box = Toolbox([Ledger], recording=Recording(path, history=True))
    add(box, 1)
    twin = box.fork()
    assert add(twin, 7) == ["8"] and add(box, 2, 9) == ["3", "12"]


def test_the_history_of_one_stateful_tool_counts_for_the_others(path: Path) -> None:
    shared = {"page": 0}

    class Turn(Tool):
        def setup(self) -> None:
            shared["page"] = 0

        def run(self) -> str:
            shared["page"] += 1
            return "turned"

    class Read(Tool):
        stateful = True

        def run(self) -> int:
            return shared["page"]

    def play(recording: Recording) -> list[str]:
        box = Toolbox([Turn, Read], recording=recording)
        return [box.call(ToolCall(name)).text for name in ("read", "turn", "read", "read")]

    told = play(record(path, history=True))
    assert told == ["0", "turned", "1", "1"] and play(replay(path, history=True)) == told


def test_tools_that_are_only_replayed_do_not_even_begin(path: Path) -> None:
    add(Toolbox([Ledger], recording=record(path, history=True)), 1)

    class Offline(Ledger):
        name = "ledger"

        def setup(self) -> None:
            raise OSError("no network")

        fork = close = setup

    with Toolbox([Offline], recording=replay(path, history=True)) as box:
        assert add(box.fork(), 1) == ["1"]


def test_some_tools_only_and_never_those_that_end_the_episode(path: Path) -> None:
    web = Web()

    @tool
    def double(number: int) -> int:
        return 2 * number

    ask(Toolbox([web.tool()], recording=record(path)), "Rome")
    box = Toolbox([web.tool(), double, answer, Ledger], recording=Recording(path, mode="replay", tools=["search"]))
    assert box.call(ToolCall("double", {"number": 2})).text == "4"
    assert add(box, 1) == ["1"]
    assert box.call(ToolCall("answer", {"answer": "x"})).final


def test_async_calls_are_recorded_too(path: Path) -> None:
    web = Web()
    call = ToolCall("search", {"query": "Rome"})
    asyncio.run(Toolbox([web.tool()], recording=record(path)).call_async(call))
    assert asyncio.run(Toolbox([web.tool()], recording=replay(path)).call_async(call)).text == "all about Rome"
    add(Toolbox([Ledger], recording=record(path, history=True)), 1)
    box = Toolbox([Ledger], recording=Recording(path, history=True))
    add(box, 1)
    assert asyncio.run(box.call_async(ToolCall("ledger", {"amount": 4}))).text == "5"


@pytest.mark.parametrize(
    "torn", [b'{"key": "a', b'{"key": "a", "text": 3, "status": "ok"}', b"[1]", b"\xff\n\x00", b'{"key": []}']
)
def test_a_broken_line_is_passed_over_and_does_not_spoil_the_next(path: Path, torn: bytes) -> None:
    web = Web()
    ask(Toolbox([web.tool()], recording=record(path)), "Rome")
    with path.open("ab") as file:
        file.write(torn)
    ask(Toolbox([web.tool()], recording=record(path)), "Paris")
    offline = Toolbox([web.tool()], recording=replay(path))
    assert [ask(offline, "Rome"), ask(offline, "Paris")] == ["all about Rome", "all about Paris"]


def in_processes(count: int, work: Callable[[Path, int], None], path: Path) -> list[int]:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(path, number)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode or 0 for process in processes]


def fill(path: Path, number: int) -> None:
    box = Toolbox([Web().tool()], recording=record(path))
    for index in range(100):
        ask(box, f"{number} {index} {'x' * 5000}")


def test_processes_do_not_write_into_each_others_lines(path: Path) -> None:
    assert in_processes(4, fill, path) == [0] * 4
    lines = [json.loads(line) for line in path.read_bytes().splitlines() if line]
    assert len(lines) == 400
    offline = Toolbox([Web().tool()], recording=replay(path))
    assert ask(offline, f"3 99 {'x' * 5000}").startswith("all about 3 99")


def die(path: Path, number: int) -> None:
    box = Toolbox([Web().tool()], recording=record(path))
    ask(box, "Rome")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_loses_nothing_that_was_answered(path: Path) -> None:
    assert in_processes(1, die, path) == [-signal.SIGKILL]
    assert ask(Toolbox([Web().tool()], recording=replay(path)), "Rome") == "all about Rome"


def test_what_another_process_adds_is_seen(path: Path) -> None:
    web = Web()
    mine = Toolbox([web.tool()], recording=Recording(path))
    assert in_processes(1, lambda path, _: fill_one(path), path) == [0]
    assert ask(mine, "Rome") == "all about Rome" and web.asked == []


def fill_one(path: Path) -> None:
    ask(Toolbox([Web().tool()], recording=record(path)), "Rome")


def test_the_environments_of_a_process_hold_a_file_once(path: Path) -> None:
    assert Recording.at(path) is Recording.at(str(path))
    assert Recording.at(path) is not Recording.at(path, mode="record")


def test_arguments_that_json_cannot_hold_have_a_place_too(path: Path) -> None:
    web = Web()
    assert ask(Toolbox([web.tool()], recording=record(path)), "half \ud800").startswith("all about half")
    assert ask(Toolbox([web.tool()], recording=replay(path)), "half \ud800").startswith("all about half")


@pytest.mark.parametrize("mode", ["Auto", "", "play"])
def test_an_unknown_mode_is_named(path: Path, mode: Mode) -> None:
    with pytest.raises(UnknownIdError, match="Unknown recording mode"):
        Recording(path, mode=mode)


def test_a_file_that_cannot_be_written_or_read_is_named(tmp_path: Path) -> None:
    web = Web()
    (tmp_path / "file").write_text("")
    with pytest.raises(ToolError, match=r"The recording .* cannot be (written|read): Not a directory"):
        ask(Toolbox([web.tool()], recording=record(tmp_path / "file" / "web.jsonl")), "Rome")
    with pytest.raises(ToolError, match="cannot be read: Is a directory"):
        Recording(tmp_path)
