"""How tools that wait are waited for: in threads that can be left behind, and on an event loop of their own."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from agent_gym.errors import WorkerError

_GRACE = 1.0
"""Seconds that an async tool has to give up after its time-out; then its loop is left behind."""


class AbandonedError(TimeoutError):
    """A call did not answer in time and could not be stopped: its thread was left behind."""


class Pending:
    """A call that is under way in another thread.

    Args:
        future: Its result to be.
        patience: Seconds to wait for it; None to wait for ever.
        leave: Called when the time is over.
    """

    def __init__(self, future: "Future[Any]", patience: float | None, leave: Callable[[], None] | None = None) -> None:
        self._future = future
        self._patience = patience
        self._leave = leave

    def result(self) -> Any:
        """Wait for the result.

        Raises:
            AbandonedError: It did not come in time.
        """
        try:
            return self._future.result(self._patience)
        except TimeoutError:
            if self._future.done():
                raise
            raise self._abandoned() from None

    async def awaited(self) -> Any:
        """Wait for the result without keeping the event loop from other work.

        Raises:
            AbandonedError: It did not come in time.
        """
        ours = asyncio.wrap_future(self._future)
        try:
            done, _ = await asyncio.wait([ours], timeout=self._patience)
        finally:
            ours.cancel()  # Does nothing to a result that has come.
        if not done:
            raise self._abandoned()
        return self._future.result()

    def _abandoned(self) -> AbandonedError:
        if self._leave is not None:
            self._leave()
        return AbandonedError()


def in_thread(function: Callable[..., Any], arguments: dict[str, Any], timeout: float | None) -> Pending:
    """Run a function in a thread of its own, which nobody needs to wait for.

    Threads of a pool would be waited for when the interpreter ends; one that hangs would keep it from ending.

    Raises:
        WorkerError: The machine has no thread left.
    """
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()

    def work() -> None:
        try:
            value = function(**arguments)
        except KeyboardInterrupt as error:
            future.set_exception(_interrupted(error))
        except BaseException as error:  # noqa: BLE001 - handed over to whoever waits, as a pool does
            future.set_exception(error)
        else:
            future.set_result(value)

    try:
        threading.Thread(target=work, name="agent-gym-tool", daemon=True).start()
    except RuntimeError as error:
        raise WorkerError(f"No thread can be started for a tool: {error}; run fewer episodes at once.") from error
    return Pending(future, timeout)


def on_loop(coroutine: Coroutine[Any, Any, Any], timeout: float | None) -> Pending:
    """Run a coroutine on the event loop of the tools, which lives on, so that connections outlast a call.

    When its time is over it is cancelled, and the result is a TimeoutError. One that blocks the loop cannot be
    cancelled: the loop is then left behind, and the next coroutine runs on a new one.
    """
    loop = _loops.current()
    future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(_contained(coroutine), timeout), loop)
    return Pending(future, None if timeout is None else timeout + _GRACE, lambda: _loops.leave(loop))


async def _contained(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Await a coroutine; what would end the event loop, and with it all others, is an error of this one alone."""
    try:
        return await coroutine
    except (KeyboardInterrupt, SystemExit) as error:
        raise _interrupted(error) from error


def _interrupted(error: BaseException) -> RuntimeError:
    """Return what stands for an error that ends programs: nobody has pressed Ctrl-C where a tool raises one."""
    return RuntimeError(f"it raised {error!r}")


class _Loops:
    """The event loop that async tools run on, in a thread of its own; one a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def current(self) -> asyncio.AbstractEventLoop:
        """Return the loop; after a fork of the process, in which its thread is missing, a new one."""
        with self._lock:
            if self._loop is None or self._thread is None or not self._thread.is_alive():
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_serve, args=(self._loop,), name="agent-gym-async-tools", daemon=True
                )
                self._thread.start()
            return self._loop

    def leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give up a loop that something blocks; it ends when all that runs on it has ended."""
        with self._lock:
            if self._loop is not loop:
                return
            self._loop = self._thread = None
        asyncio.run_coroutine_threadsafe(_drain(loop), loop)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


async def _drain(loop: asyncio.AbstractEventLoop) -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others)
    loop.stop()


_loops = _Loops()
