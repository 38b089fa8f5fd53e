"""A sandbox that is none: a process of its own, for programs that the tests themselves have written."""

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

import pytest

from agent_gym.envs.code.verdict import Judge
from agent_gym.errors import SandboxUnavailable
from agent_gym.sandbox import shared
from agent_gym.sandbox.base import Limits, Result, Sandbox, Session, Status


class ProcessSandbox(Sandbox):
    """Runs code in a bare process; counts its runs and keeps what went in."""

    name = "process"

    def __init__(self) -> None:
        super().__init__(Limits(), 1)
        self.sent: list[str] = []

    def guarantees(self) -> Mapping[str, bool]:
        return {}

    @property
    def usable(self) -> bool:
        return True

    def run(
        self,
        code: str,
        *,
        language: str = "python",
        stdin: bytes = b"",
        timeout: float | None = None,
        files: Mapping[str, bytes] | None = None,
        collect: Sequence[str] = (),
    ) -> Result:
        self.sent.append(stdin.decode())
        started = time.perf_counter()
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", code], input=stdin, capture_output=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as late:
            return Result(Status.TIMEOUT, late.stdout or b"", late.stderr or b"")
        status = Status.OK if done.returncode == 0 else Status.ERROR
        return Result(status, done.stdout, done.stderr, done.returncode, time.perf_counter() - started)

    def session(self) -> Session:
        raise NotImplementedError

    def close(self) -> None:
        pass


@pytest.fixture
def process_sandbox() -> ProcessSandbox:
    return ProcessSandbox()


@pytest.fixture(params=["process", "auto"])
def any_sandbox(request: pytest.FixtureRequest) -> Sandbox:
    """The bare process, and the sandbox of this machine where it has one."""
    if request.param == "process":
        return ProcessSandbox()
    try:
        return shared("auto")
    except SandboxUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def judge(any_sandbox: Sandbox) -> Judge:
    return Judge(lambda: any_sandbox, timeout=5.0)
