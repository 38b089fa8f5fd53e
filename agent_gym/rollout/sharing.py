"""Episodes shared out among the processes of a run, so that each has all of them in the end."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

Result = TypeVar("Result")


class Share(Protocol):
    """Which part of something this process does, and how all parts come together; see `trainers.processes`."""

    def mine(self, count: int) -> list[int]:
        """Return the places, of so many, that this process does."""

    def agree(self, error: Exception | None) -> None:
        """Raise on every process what one of them has met."""

    def gather(self, items: Sequence[Result], total: int) -> list[Result]:
        """Return what all processes have done, by place."""


async def share_out(
    share: Share | None, count: int, do: Callable[[list[int]], Awaitable[list[Result]]]
) -> list[Result]:
    """Let every process do its places of `count`, and return the results of all places on each.

    Args:
        share: Of this process; None does everything here.
        count: Places in all.
        do: Does some places and returns their results; what it raises on one process is raised on all.
    """
    if share is None:
        return await do(list(range(count)))
    try:
        done = await do(share.mine(count))
    except Exception as error:
        await asyncio.to_thread(share.agree, error)
        raise
    # In a thread: whoever waits here for another process must not keep this one's engine from getting new weights.
    return await asyncio.to_thread(_together, share, done, count)


def _together(share: Share, done: Sequence[Result], count: int) -> list[Result]:
    share.agree(None)
    return share.gather(done, count)
