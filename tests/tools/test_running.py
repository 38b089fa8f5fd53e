"""Threads that can be left behind, and the event loop of async tools."""

import asyncio
import os
import threading

import pytest

from agent_gym.tools.running import AbandonedError, in_thread, on_loop


def test_a_result_or_an_error_comes_back_from_a_thread() -> None:
    assert in_thread(lambda a: a + 1, {"a": 1}, 5).result() == 2
    with pytest.raises(ZeroDivisionError):
        in_thread(lambda: 1 / 0, {}, 5).result()


def test_a_thread_that_is_left_behind_does_not_keep_the_interpreter_from_ending() -> None:
    found: list[threading.Thread] = []
    released = threading.Event()

    def hang() -> None:
        found.append(threading.current_thread())
        released.wait(10)

    with pytest.raises(AbandonedError):
        in_thread(hang, {}, 0.01).result()
    assert found[0].daemon
    released.set()


def test_a_result_that_comes_too_late_for_a_closed_loop_is_dropped() -> None:
    released, ended = threading.Event(), threading.Event()

    def late() -> str:
        released.wait(10)
        return "late"

    async def wait() -> None:
        with pytest.raises(AbandonedError):
            await in_thread(late, {}, 0.01).awaited()

    asyncio.run(wait())
    released.set()
    in_thread(ended.set, {}, 5).result()
    assert ended.is_set()


def test_coroutines_run_side_by_side_on_one_loop() -> None:
    async def meet(own: asyncio.Event, other: asyncio.Event) -> int:
        own.set()
        await other.wait()
        return id(asyncio.get_running_loop())

    async def both() -> list[int]:
        first, second = asyncio.Event(), asyncio.Event()
        return await asyncio.gather(meet(first, second), meet(second, first))

    one, two = on_loop(both(), 5).result()
    assert one == two == on_loop(_loop(), 5).result()


async def _loop() -> int:
    return id(asyncio.get_running_loop())


def test_a_forked_process_gets_a_loop_of_its_own() -> None:
    on_loop(_loop(), 5).result()
    child = os.fork()
    if child == 0:
        try:
            on_loop(_loop(), 5).result()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_would_end_the_program_is_an_error_of_the_tool_alone() -> None:
    async def leave() -> None:
        raise SystemExit(2)

    def interrupt() -> None:
        raise KeyboardInterrupt

    loop = on_loop(_loop(), 5).result()
    with pytest.raises(RuntimeError, match=r"it raised SystemExit\(2\)"):
        on_loop(leave(), 5).result()
    assert on_loop(_loop(), 5).result() == loop
    with pytest.raises(RuntimeError, match="it raised KeyboardInterrupt"):
        in_thread(interrupt, {}, 5).result()
