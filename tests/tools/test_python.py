"""The tools that run code, over a sandbox that only says what it was told to; the real ones have tests of their own."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from agent_gym.errors import ConfigError, SandboxError, SandboxUnavailable, ToolError, UnknownIdError
from agent_gym.sandbox.base import Files, Limits, Result, Sandbox, Session, Status
from agent_gym.tools.base import as_tool
from agent_gym.tools.calls import ToolCall, ToolResult
from agent_gym.tools.python import BashTool, PythonTool
from agent_gym.tools.toolbox import Toolbox


class FakeSandbox(Sandbox):
    """Answers the codes of a script, and echoes any other; remembers what it was asked."""

    name = "fake"

    def __init__(self, **script: Result) -> None:
        super().__init__(Limits(seconds=10), concurrency=1)
        self.script = script
        self.sessions: list[FakeSession] = []
        self.runs: list[tuple[str, Any]] = []
        self.open = True

    @property
    def usable(self) -> bool:
        return self.open

    def guarantees(self) -> Mapping[str, bool]:
        return {}

    def answer(self, code: str, **options: Any) -> Result:
        self.runs.append((code, options))
        if code == "break":
            raise SandboxError("the sandbox failed twice")
        return self.script.get(code, Result(Status.OK, code.encode()))

    def run(self, code: str, **options: Any) -> Result:
        return self.answer(code, **options)

    def session(self) -> "FakeSession":
        self.sessions.append(FakeSession(self))
        return self.sessions[-1]

    def close(self) -> None: ...


class FakeSession(Session):
    def __init__(self, sandbox: FakeSandbox, codes: Sequence[str] = ()) -> None:
        self.sandbox = sandbox
        self.codes = list(codes)
        self.closed = False

    def run(self, code: str, **options: Any) -> Result:
        self.codes.append(code)
        if code == "history":
            return Result(Status.OK, " ".join(self.codes).encode())
        return self.sandbox.answer(code, **options)

    def write_files(self, files: Mapping[str, bytes]) -> None: ...

    def read_files(self, patterns: Sequence[str] = ("**",)) -> Files:
        return Files()

    def fork(self) -> "FakeSession":
        twin = FakeSession(self.sandbox, self.codes)
        self.sandbox.sessions.append(twin)
        return twin

    def close(self) -> None:
        self.closed = True


def told(tool: PythonTool, code: str) -> ToolResult:
    return Toolbox([tool]).call(ToolCall(tool.name, {"code": code}))


@pytest.mark.parametrize(
    ("result", "text", "status"),
    [
        (Result(Status.OK, b"4\n"), "4", "ok"),
        (Result(Status.OK), "(no output)", "ok"),
        (Result(Status.ERROR, b"a\n", b"ValueError: b\n", exit_code=1), "a\nValueError: b", "error"),
        (Result(Status.ERROR, exit_code=3), "Failed with exit code 3.", "error"),
        (
            Result(Status.TIMEOUT, b"a", restarted=True),
            "a\nStopped after 10 s. The variables are lost, the files remain.",
            "timeout",
        ),
        (Result(Status.TIMEOUT), "Stopped after 10 s.", "timeout"),
        (
            Result(Status.OUT_OF_MEMORY, restarted=True, files_lost=True),
            "Stopped: it used more than 512 MiB of memory. The variables and files of earlier calls are lost.",
            "error",
        ),
        (
            Result(Status.OUTPUT_LIMIT, b"yes", truncated_bytes=70_000_000),
            "yes\n[70,000,000 more bytes of output were not kept.]\nStopped: it wrote more than 64 MiB.",
            "error",
        ),
        (Result(Status.DIED, exit_code=139), "The process died (exit code 139).", "error"),
        (Result(Status.DIED), "The process died.", "error"),
        (Result(Status.OK, b"1", restarted=True), "1\nThe variables are lost, the files remain.", "ok"),
        (Result(Status.OK, b"\x1b[31mred\x1b[0m\x00"), "red", "ok"),
    ],
    ids=lambda value: value.status.value if isinstance(value, Result) else "",
)
def test_the_model_reads_how_its_code_ended(result: Result, text: str, status: str) -> None:
    answer = told(PythonTool(FakeSandbox(code=result)), "code")
    assert (answer.text, answer.status, answer.final) == (text, status, False)


def test_bash_says_how_commands_ended() -> None:
    sandbox = FakeSandbox(ls=Result(Status.ERROR, b"", b"no such file\n", exit_code=2))
    assert told(BashTool(sandbox), "ls").text == "no such file\nFailed with exit code 2."
    assert sandbox.runs[0][1]["language"] == "bash"


def test_the_session_starts_with_the_first_call_and_lasts_for_the_episode() -> None:
    sandbox = FakeSandbox()
    box = Toolbox([PythonTool(sandbox)])
    box.setup()
    assert sandbox.sessions == []
    box.call(ToolCall("python", {"code": "x = 1"}))
    assert box.call(ToolCall("python", {"code": "history"})).text == "x = 1 history"
    box.setup()
    assert sandbox.sessions[0].closed
    assert box.call(ToolCall("python", {"code": "history"})).text == "history"
    box.close()
    assert all(session.closed for session in sandbox.sessions)


def test_a_fork_has_a_session_in_the_same_state() -> None:
    box = Toolbox([PythonTool(FakeSandbox())])
    before = box.fork()
    box.call(ToolCall("python", {"code": "a"}))
    twin = box.fork()
    twin.call(ToolCall("python", {"code": "b"}))
    assert box.call(ToolCall("python", {"code": "history"})).text == "a history"
    assert twin.call(ToolCall("python", {"code": "history"})).text == "a b history"
    assert before.call(ToolCall("python", {"code": "history"})).text == "history"
    twin.close()
    assert box.call(ToolCall("python", {"code": "x"})).text == "x"


def test_without_state_each_call_has_a_sandbox_of_its_own() -> None:
    sandbox = FakeSandbox(late=Result(Status.TIMEOUT, restarted=True))
    tool = PythonTool(sandbox, stateful=False, timeout=2)
    assert told(tool, "late").text == "Stopped after 2 s."
    assert sandbox.sessions == [] and sandbox.runs[0][1]["timeout"] == 2
    assert not tool.stateful and "Nothing stays" in tool.description


def test_code_that_is_indented_as_a_whole_is_brought_to_the_margin() -> None:
    sandbox = FakeSandbox()
    told(PythonTool(sandbox), "  if x:\n    y")
    assert sandbox.runs[0][0] == "if x:\n  y"


def test_a_sandbox_that_fails_is_not_the_models_fault() -> None:
    with pytest.raises(SandboxError):
        told(PythonTool(FakeSandbox()), "break")


def test_a_machine_without_a_sandbox_is_not_the_models_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(backend: str) -> Sandbox:
        raise SandboxUnavailable(f"No sandbox {backend} works here: install bubblewrap.")

    monkeypatch.setattr("agent_gym.sandbox.shared", unavailable)
    with pytest.raises(SandboxUnavailable, match="No sandbox bubblewrap works here"):
        told(PythonTool("bubblewrap"), "1")


def test_the_process_shares_the_sandbox_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    sandboxes = [FakeSandbox()]
    monkeypatch.setattr("agent_gym.sandbox.shared", lambda backend: sandboxes[-1])
    box = Toolbox([PythonTool(stateful=False)])
    assert box.call(ToolCall("python", {"code": "1"})).text == "1"
    # One that was closed, or belongs to the process that this one was forked from, is asked for again.
    sandboxes[0].open = False
    sandboxes.append(FakeSandbox())
    assert box.call(ToolCall("python", {"code": "2"})).text == "2"
    assert [len(sandbox.runs) for sandbox in sandboxes] == [1, 1]


def test_names_and_languages() -> None:
    assert (as_tool("python").name, as_tool("bash").name, PythonTool(language="bash").name) == (
        "python",
        "bash",
        "bash",
    )
    assert PythonTool().blocking and PythonTool().stateful
    with pytest.raises(UnknownIdError, match="Unknown language 'perl'"):
        PythonTool(language="perl")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="timeout of the tool 'python' must be more than 0 s"):
        PythonTool(timeout=0)


def test_an_argument_that_is_missing_is_named() -> None:
    answer = Toolbox([PythonTool(FakeSandbox())]).call(ToolCall("python", {"script": "1"}))
    assert answer.status == "invalid" and "code: this argument is missing" in answer.text


def test_a_closed_toolbox_can_begin_again() -> None:
    with pytest.raises(ToolError):
        as_tool("pythn")
    box = Toolbox([PythonTool(FakeSandbox())])
    box.close()
    assert box.call(ToolCall("python", {"code": "1"})).text == "1"
