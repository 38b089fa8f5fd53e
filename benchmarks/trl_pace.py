"""How the two sides of `trl.py` take turns: a line in begins a step, a line out ends it; and how it is measured.

Knows neither side. Imported by both, and so by another Python that has TRL.
"""

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Clock:
    """Seconds on the clock and of the processor, by part of a step."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Replace a method by itself, measured. A part that calls itself counts once."""
        method, running = getattr(owner, name), False

        def measured(*args: Any, **kwargs: Any) -> Any:
            nonlocal running
            if running:
                return method(*args, **kwargs)
            running, clock, processor = True, time.perf_counter(), time.process_time()
            try:
                return method(*args, **kwargs)
            finally:
                running = False
                spent = self.spent[part]
                spent[0] += time.perf_counter() - clock
                spent[1] += time.process_time() - processor

        setattr(owner, name, measured)


class Pace:
    """A side's end of the conversation. What else is printed goes to standard error.

    Args:
        clock: Is read, and set back, with each step.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._began = (0.0, 0.0)

    def wait(self) -> dict[str, Any]:
        """Wait until the next step may begin; return what the other end says of it."""
        line = sys.stdin.readline()
        if not line:
            raise SystemExit("The other end has gone.")
        self.clock.spent.clear()
        _forget_peak()
        self._began = time.perf_counter(), time.process_time()
        told: dict[str, Any] = json.loads(line)
        return told

    def done(self, tell: Callable[[], dict[str, Any]]) -> None:
        """Say that the step has ended, and what it was; saying so does not count."""
        seconds = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
        self.clock.spent["step"] = list(seconds)
        record = {"spent": {part: list(pair) for part, pair in self.clock.spent.items()}, "peak": _peak()}
        print(json.dumps(record | tell()), file=self._out, flush=True)


def _forget_peak() -> None:
    """Let the peak of the resident memory begin anew, where the kernel lets us."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("The peak of memory includes what came before the steps.", file=sys.stderr)


def _peak() -> float:
    """Return the largest resident memory since it was last forgotten, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
