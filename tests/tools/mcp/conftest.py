"""Servers to connect to, and eyes on processes."""

import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def things() -> list[str]:
    """The command of the server that is made with the `mcp` package."""
    return [sys.executable, str(HERE / "things_server.py")]


@pytest.fixture(scope="session")
def raw() -> list[str]:
    """The command of the server that speaks by hand; may be followed by habits."""
    return [sys.executable, "-S", str(HERE / "raw_server.py")]


@pytest.fixture
def serving(things: list[str]) -> Iterator[Callable[..., tuple[str, "subprocess.Popen[str]"]]]:
    """Start the server over HTTP ("http", "json" or "sse"); return its address and process."""
    started: list[subprocess.Popen[str]] = []

    def start(kind: str, port: int = 0) -> "tuple[str, subprocess.Popen[str]]":
        process = subprocess.Popen([*things, kind, str(port)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return f"http://127.0.0.1:{int(process.stdout.readline())}/{'sse' if kind == 'sse' else 'mcp'}", process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def ended() -> Iterator[Callable[[int], bool]]:
    """Wait until a process that is not our child has ended; return whether it has within half a minute."""
    descriptors: list[int] = []

    def wait(pid: int) -> bool:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        descriptors.append(descriptor)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(30_000))

    yield wait
    for descriptor in descriptors:
        os.close(descriptor)
