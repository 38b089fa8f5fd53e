"""Programs run in processes that are forked from one which has imported everything already: imports take seconds.

Each has a folder, an environment, an input and outputs of its own, as if it had been started by a shell.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest


def agent_gym(
    arguments: list[str], folder: Path, environment: Mapping[str, str], given: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run the command agent-gym with arguments, and some text to read."""
    return _forked(_agent_gym, arguments, folder, environment, given)


def python(code: list[str], folder: Path, environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run blocks of Python in order, in one namespace; one that needs what is not here is passed over, and says so."""
    return _forked(_in_order, code, folder, environment, "")


@dataclass(frozen=True, slots=True)
class Begun:
    """A command that goes on, in a session of its own."""

    process: Any
    """See `multiprocessing.Process`."""
    outputs: tuple[Path, Path]

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the command and all that it has started, as a terminal does."""
        os.killpg(self.pid, number)

    def end(self) -> tuple[int, str, str]:
        """Wait for the end; return the exit code and what was printed."""
        self.process.join(100)
        assert self.process.exitcode is not None, "the command has not ended within 100 s"
        stdout, stderr = (path.read_text() for path in self.outputs)
        return self.process.exitcode, stdout, stderr


@contextmanager
def agent_gym_begun(arguments: list[str], folder: Path, environment: Mapping[str, str]) -> Iterator[Begun]:
    """Run the command agent-gym with arguments while something is done to it."""
    with tempfile.TemporaryDirectory() as place:
        said, stdout, stderr = (Path(place) / name for name in ("in", "out", "err"))
        said.touch()
        files = [str(said), str(stdout), str(stderr)]
        process = _server().Process(target=_begin, args=(_alone, arguments, str(folder), dict(environment), files))
        process.start()
        try:
            yield Begun(process, (stdout, stderr))
        finally:
            process.kill()
            process.join()


def _alone(arguments: list[str]) -> None:
    os.setsid()
    _agent_gym(arguments)


def _agent_gym(arguments: list[str]) -> None:
    sys.argv = ["agent-gym", *arguments]
    from agent_gym.cli import main

    main()


def _in_order(code: list[str]) -> None:
    from agent_gym.errors import MissingExtraError, SandboxUnavailable

    space = {"__name__": "__main__"}
    for number, block in enumerate(code, 1):
        try:
            exec(compile(block, f"block {number}", "exec"), space)
        except (MissingExtraError, SandboxUnavailable) as error:
            sys.stdout.write(f"SKIPPED block {number}: {error}\n")


def _forked(
    work: Callable[[list[str]], None], arguments: list[str], folder: Path, environment: Mapping[str, str], given: str
) -> "subprocess.CompletedProcess[str]":
    with tempfile.TemporaryDirectory() as place:
        said, *outputs = (Path(place) / name for name in ("in", "out", "err"))
        said.write_text(given)
        process = _server().Process(
            target=_begin, args=(work, arguments, str(folder), dict(environment), [str(said), *map(str, outputs)])
        )
        process.start()
        process.join(600)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f"{arguments} has not ended within 600 s.")
        stdout, stderr = (path.read_text() if path.exists() else "" for path in outputs)
        code = process.exitcode
    return subprocess.CompletedProcess(arguments, -1 if code is None else code, stdout, stderr)


@cache
def _server() -> Any:
    """Return what makes processes; its environment is that in which the modules are imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["agent_gym.cli.app", "agent_gym.trainers.trainer"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        first = context.Process(target=int)
        first.start()
        first.join()
    return context


def _begin(
    work: Callable[[list[str]], None], arguments: list[str], folder: str, environment: dict[str, str], files: list[str]
) -> None:
    """Work in a folder, with an environment, an input and outputs of one's own."""
    # A shell gives what it starts in the background no Ctrl-C, and it would be handed down to here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    for descriptor, path in enumerate(files):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT if descriptor else os.O_RDONLY), descriptor)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115 - they end with the process
    work(arguments)
