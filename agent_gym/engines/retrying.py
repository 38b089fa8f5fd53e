"""Waiting for a server that is busy: how often, how long, and until when. Knows nothing of what is asked."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from agent_gym.tools.web import Retries


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a request is tried."""

    retries: Retries = field(default_factory=lambda: Retries(tries=8, longest_wait=60.0))
    """How often, and how long to wait in between. A server that asks for longer waits is not waited for."""
    total: float = 900.0
    """Seconds for all tries and waits together."""
    request: float = 300.0
    """Seconds that one request may take."""
    connect: float = 10.0
    """Seconds that a connection may take."""
    sleep: Callable[[float], Awaitable[None]] = field(default=asyncio.sleep, repr=False)
    """Waits; for tests."""
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    """Seconds that only grow; for tests."""

    async def wait(self, failures: int, asked_for: float | None, deadline: float) -> bool:
        """Wait before a request is tried again; return False at once where it should not be.

        Args:
            failures: How often it has failed.
            asked_for: Seconds that the server asks to wait.
            deadline: When the tries must have ended, by `clock`.
        """
        seconds = self.retries.wait_before(failures, asked_for)
        if seconds is None or self.clock() + seconds >= deadline:
            return False
        await self.sleep(seconds)
        return True
