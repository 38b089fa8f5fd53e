"""Episodes shared out among the processes of a run, so that each has all of them in the end."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

Result = TypeVar("Result")


class Share(Protocol):
    """Which part of something this process does, and how all parts come together; see `trainers.processes`."""

    def mine(self, count: int) -> list[int]:
        """Return the places, of so many, that this process does."""

    def agree(self, error: Exception | None) -> None:
        """Raise on every process what one of them has met."""

    def gather(self, items: Sequence[Result]) -> list[Result]:
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
        await agreed(share, error)
        raise

    def together() -> list[Result]:
        share.agree(None)
        return share.gather(done)

    return await _aside(together)


async def agreed(share: Share, error: Exception | None) -> None:
    """Wait for the other processes to come to the same place, and raise what one of them has met; see `Share.agree`."""
    await _aside(lambda: share.agree(error))


async def _aside(wait: Callable[[], Result]) -> Result:
    """Wait for the other processes in a thread: this one's engine may have to take new weights meanwhile.

    The thread is one that nobody waits for at the end, as what it waits for may never come.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def work() -> None:
        try:
            result = wait()
        except Exception as error:  # noqa: BLE001 - it is raised where the result is awaited
            met = error
            _tell(loop, lambda: None if done.done() else done.set_exception(met))
            return
        _tell(loop, lambda: None if done.done() else done.set_result(result))

    threading.Thread(target=work, name="waiting for other processes", daemon=True).start()
    return await done


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    # Whose loop has been closed does not ask any more.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(what)
