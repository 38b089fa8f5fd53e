"""Functions run on several processes at once, joined as torchrun would join them; imports have been done before."""

import contextlib
import itertools
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forking
import torch

_NUMBERS = itertools.count(os.getpid())


def on_ranks(count: int, work: Callable[..., Any], *arguments: Any, folder: Path, seconds: float = 400) -> list[Any]:
    """Run a function of a test's module on so many processes; return what it returns on each, or what it raises.

    Args:
        count: Processes.
        work: Called with the arguments on each.
        *arguments: Anything that can be pickled.
        folder: Arguments and results pass through it.
        seconds: All of it may take.
    """
    port = free_port()
    given = folder / f"given-{time.monotonic_ns()}.pt"
    # Not through multiprocessing, which hands every tensor on by a file that stays open.
    torch.save(arguments, given)
    places = [folder / f"rank{rank}-{time.monotonic_ns()}.pt" for rank in range(count)]
    processes = [
        forking._server().Process(target=_begin, args=(rank, count, port, sys.path, str(place), work, str(given)))
        for rank, place in enumerate(places)
    ]
    for process in processes:
        process.start()
    end = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    late = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for process in processes:
        process.kill()
        process.join()
    assert not late, f"Processes {late} of {count} have not ended within {seconds} s."
    return [
        torch.load(place, weights_only=False) if place.exists() else process.exitcode
        for place, process in zip(places, processes, strict=True)
    ]


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """Return what torchrun tells a process."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    return {key: str(value) for key, value in numbers.items()} | {"MASTER_ADDR": "127.0.0.1"}


def _begin(rank: int, count: int, port: int, path: list[str], place: str, work: Callable[..., Any], given: str) -> None:
    sys.path[:] = path
    os.environ.update(environment(rank, count, port))
    torch.set_num_threads(1)
    try:
        result = work(*torch.load(given, weights_only=False))
    except Exception as error:  # noqa: BLE001 - the test looks at it
        result = error
    torch.save(result, place + ".partial")
    Path(place + ".partial").replace(place)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def free_port() -> int:
    """Return a port that nobody listens on, from a range of this test process's own: it is bound only later.

    Ports that the system hands out begin at 32768; workers of pytest take theirs from different thousands.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    for number in itertools.islice(_NUMBERS, 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", 20000 + 1000 * worker + number % 1000))
            return int(probe.getsockname()[1])
    raise AssertionError("no port is free")
