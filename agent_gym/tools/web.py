"""What tools that use the web share: a rate limit, waiting between tries, and calls that are made once.

Knows nothing of search engines or pages.
"""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Generic, TypeVar

from agent_gym.errors import ConfigError

_T = TypeVar("_T")


class RateLimit:
    """Lets so many calls through in a second, those of all threads together.

    Args:
        per_second: Calls a second, in the long run.
        burst: Calls that may come at once after a pause.
        clock: Seconds that only grow; for tests.
        sleep: Waits; for tests.

    Raises:
        ConfigError: A number is not more than 0.
    """

    def __init__(
        self,
        per_second: float,
        burst: int = 1,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if per_second <= 0 or burst < 1:
            raise ConfigError(f"A rate limit needs more than 0 calls a second, not {per_second}, and a burst of 1.")
        self._interval = 1.0 / per_second
        self._slack = (burst - 1) * self._interval
        self._clock = clock
        self._sleep = sleep
        self._next = clock() - self._slack
        self._guard = threading.Lock()

    def wait(self, longest: float = float("inf")) -> bool:
        """Wait for a turn; the turns are given in the order in which they are asked for.

        Args:
            longest: Seconds; where the turn is later than that, it is not taken.

        Returns:
            Whether there is a turn.
        """
        with self._guard:
            now = self._clock()
            turn = max(self._next, now - self._slack)
            if turn - now > longest:
                return False
            self._next = turn + self._interval
        if turn > now:
            self._sleep(turn - now)
        return True


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a call is tried, and how long to wait in between."""

    tries: int = 4
    """Tries in all."""
    first_wait: float = 0.5
    """Seconds; each further wait is twice as long, and then shortened by chance, so that callers do not meet again."""
    longest_wait: float = 20.0
    """Seconds; a server that asks for more is not waited for."""
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)
    """Waits; for tests."""
    random: Callable[[], float] = field(default_factory=lambda: random.Random().random, repr=False)
    """A number between 0 and 1; for tests."""

    def __post_init__(self) -> None:
        if self.tries < 1 or self.first_wait < 0 or self.longest_wait < 0:
            raise ConfigError("Retries need at least one try, and waits of at least 0 seconds.")

    def wait_before(self, retry: int, asked_for: float | None) -> float | None:
        """Return how many seconds to wait before a retry, or None if it is not to be tried again.

        Args:
            retry: 1 for the first retry.
            asked_for: Seconds that the server asks to wait.
        """
        if retry >= self.tries:
            return None
        if asked_for is not None:
            return asked_for if asked_for <= self.longest_wait else None
        # Exponents that grow with the retries would overflow long before they matter.
        ceiling = min(self.first_wait * 2.0 ** min(retry - 1, 30), self.longest_wait)
        return ceiling * (0.5 + 0.5 * self.random())


class SingleFlight(Generic[_T]):
    """Makes one call of those that ask for the same at the same time; the others get its result, or its error."""

    def __init__(self) -> None:
        self._calls: dict[str, Future[_T]] = {}
        self._guard = threading.Lock()

    def do(self, key: str, call: Callable[[], _T]) -> _T:
        """Return what the call returns, or what a call of the same key that is under way returns."""
        with self._guard:
            running = self._calls.get(key)
            if running is None:
                mine = self._calls[key] = Future()
        if running is not None:
            return running.result()
        try:
            mine.set_result(call())
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._guard:
                del self._calls[key]
        return mine.result()


def retry_after(header: str | None, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> float | None:
    """Return the seconds of a Retry-After header, which is a number or a date, or None."""
    if header is None:
        return None
    try:
        seconds = float(header)
        return seconds if 0 <= seconds < float("inf") else None
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(header)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - now()).total_seconds())
