"""What the bubblewrap sandbox costs: cold and warm runs, cells, forks; medians beside a plain Python process.

Run as `python benchmarks/sandbox.py [repeats]` on a machine that does nothing else.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from agent_gym.sandbox.bubblewrap import Bubblewrap

LIBRARIES = "import numpy, sympy; print(numpy.ones(3).sum(), sympy.factorint(60))"


def timed(work: Callable[[], object], repeats: int) -> str:
    """Return median and 95th percentile of some work, in milliseconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return f"median {statistics.median(times):7.2f} ms, 95% {sorted(times)[int(0.95 * repeats)]:7.2f} ms"


def cold() -> None:
    """Start a sandbox, run code once, and end it."""
    with Bubblewrap(preload=(), packages=()) as sandbox:
        assert sandbox.run("print(1)").ok


def throughput(sandbox: Bubblewrap, runs: int, threads: int) -> float:
    """Return runs a second, several at once."""
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        assert all(result.ok for result in pool.map(lambda _: sandbox.run(LIBRARIES), range(runs)))
    return runs / (time.perf_counter() - started)


def main(repeats: int) -> None:
    """Print the figures."""
    plain = [sys.executable, "-I", "-S", "-c", "print(1)"]
    print(f"plain python process          {timed(lambda: subprocess.run(plain, capture_output=True), repeats)}")
    print(f"cold run                      {timed(cold, repeats)}")
    with Bubblewrap() as sandbox:
        sandbox.run("1")
        print(f"warm run with numpy and sympy {timed(lambda: sandbox.run(LIBRARIES), repeats)}")
        cores = os.cpu_count() or 1
        print(f"warm runs a second            {throughput(sandbox, 10 * repeats, 2 * cores):7.1f} on {cores} cores")
    with Bubblewrap() as sandbox, sandbox.session() as session:
        session.run("x = 0")
        print(f"cell of a session             {timed(lambda: session.run('x += 1'), 10 * repeats)}")
        twins = []
        print(f"fork of a session             {timed(lambda: twins.append(session.fork()), repeats)}")
        print(f"end of a session              {timed(lambda: twins.pop().close(), repeats)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
