"""What the Docker sandbox costs: containers, sessions, cells, and eight sessions in parallel.

Run as `python benchmarks/sandbox_docker.py IMAGE [repeats]` on a machine that does nothing else; DOCKER_HOST names the
daemon, and RUNTIME another runtime of its containers.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from agent_gym.sandbox import Session
from agent_gym.sandbox.docker import Docker

PARALLEL = 8


def timed(work: Callable[[], object], repeats: int) -> str:
    """Return median and 95th percentile of some work, in milliseconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return f"median {statistics.median(times):8.2f} ms, 95% {sorted(times)[int(0.95 * repeats)]:8.2f} ms"


def opened(sandbox: Docker, sessions: list[Session]) -> None:
    """Open a session and run its first cell."""
    sessions.append(sandbox.session())
    assert sessions[-1].run("x = 0").ok


def cells(session: Session, count: int) -> None:
    """Run cells in a session."""
    for _ in range(count):
        assert session.run("x += 1").ok


def main(image: str, repeats: int) -> None:
    """Print the figures."""
    runtime = os.environ.get("RUNTIME")
    with Docker(image=image, runtime=runtime, concurrency=PARALLEL) as sandbox:
        print(f"container, created and removed  {timed(lambda: sandbox._open_box().close(), repeats)}")
    with Docker(image=image, runtime=runtime, concurrency=PARALLEL) as sandbox:
        # The first call of all makes its own container; those that follow find one that is ready, if there was time.
        sessions: list[Session] = []
        print(f"session, opened in a row        {timed(lambda: opened(sandbox, sessions), repeats)}")
        print(f"cell of a session               {timed(lambda: cells(sessions[0], 1), 20 * repeats)}")
        print(f"session, closed                 {timed(lambda: sessions.pop().close(), repeats)}")
        print(f"run, in a container of its own  {timed(lambda: sandbox.run('print(1)'), repeats)}")
    with Docker(image=image, runtime=runtime, concurrency=PARALLEL) as sandbox, ThreadPoolExecutor(PARALLEL) as pool:
        sessions = [sandbox.session() for _ in range(PARALLEL)]
        started = time.perf_counter()
        list(pool.map(lambda session: session.run("x = 0"), sessions))
        print(f"{PARALLEL} sessions started at once      {1000 * (time.perf_counter() - started):8.2f} ms in all")
        started = time.perf_counter()
        list(pool.map(lambda session: cells(session, 10 * repeats), sessions))
        rate = PARALLEL * 10 * repeats / (time.perf_counter() - started)
        print(f"cells a second, {PARALLEL} sessions       {rate:8.1f}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python benchmarks/sandbox_docker.py IMAGE [repeats]")
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 15)
