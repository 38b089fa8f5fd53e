"""How long vLLM in this process may take for one thing, and who notices that it takes longer.

What hangs in a thread cannot be broken off. So those who wait for it are told, and the thread is left to itself.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agent_gym.errors import RefusedError

_LONGEST_PAUSE = 1.0
"""Seconds between two looks, at most: so much later than its limit something is noticed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds after which vLLM counts as hanging."""

    step: float = 300.0
    """For one forward pass over all requests in flight."""
    call: float = 600.0
    """For taking new weights, for falling asleep and waking up, and for its end."""
    start: float = 1800.0
    """For its start."""


class TooLate(BaseException):
    """What was done has ended, but those who waited were told that it would not; no error of vLLM's, to anybody."""


class Watch:
    """Looks from a thread of its own at what another one does.

    Args:
        limits: The shortest says how often it looks.
        tell: Is called once, in the watch's thread, with the error for those who wait.
    """

    def __init__(self, limits: Limits, tell: Callable[[RefusedError], None]) -> None:
        self._pause = min(_LONGEST_PAUSE, min(limits.step, limits.call, limits.start) / 4)
        self._tell = tell
        self._lock = threading.Lock()
        self._ends = float("inf")
        self._sentence = ""
        self._over = threading.Event()
        self.found = False
        """Whether something has taken longer than it may."""
        threading.Thread(target=self._look, name="vllm-watch", daemon=True).start()

    @contextmanager
    def within(self, what: str, seconds: float, key: str) -> Iterator[None]:
        """Do what may take so many seconds.

        Args:
            what: Is done.
            seconds: It may take.
            key: Of the engine's section, which says how many.

        Raises:
            TooLate: It has ended later.
        """
        sentence = (
            f"vLLM hangs: {what} has not ended within {seconds:g} s (the engine's {key}). Go on with --resume in a new "
            f"process, and with a larger {key} if it was only slow."
        )
        with self._lock:
            self._sentence, self._ends = sentence, time.monotonic() + seconds
        try:
            yield
        finally:
            with self._lock:
                self._ends = float("inf")
                if self.found:
                    raise TooLate

    def end(self) -> None:
        """Look no more."""
        self._over.set()

    def _look(self) -> None:
        while not self._over.wait(self._pause):
            # What ends meanwhile waits here, and finds that all have been told.
            with self._lock:
                if time.monotonic() > self._ends:
                    self.found = True
                    self._tell(RefusedError(self._sentence))
                    return
