"""The thread that vLLM runs in, with a stand-in for vLLM: who waits for whom, and what those who wait are told."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import until

from agent_gym.engines.vllm import VllmEngine
from agent_gym.engines.vllm_lockstep import LockstepThread
from agent_gym.engines.vllm_thread import Request, VllmThread, _left_behind, await_room
from agent_gym.engines.vllm_watch import Limits
from agent_gym.errors import EngineError, RefusedError

WAIT = 10


@dataclass
class Stand:
    """Ends a request after as many steps as its prompt says; a step waits until it is allowed."""

    allowed: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    left: dict[str, int] = field(default_factory=dict)
    aborted: list[str] = field(default_factory=list)
    fail: Callable[[], None] = lambda: None
    stepped: threading.Event = field(default_factory=threading.Event)

    def add_request(self, name: str, prompt: dict[str, Any], parameters: Any) -> str:
        if not prompt["prompt_token_ids"]:
            raise ValueError("an empty prompt\nand more")
        self.left[f"{name}-x"] = prompt["prompt_token_ids"][0]
        return f"{name}-x"

    def abort_request(self, names: list[str], internal: bool) -> None:
        assert internal
        for name in names:
            del self.left[name]
        self.aborted += names

    def step(self) -> list[Any]:
        self.stepped.set()
        assert self.allowed.acquire(timeout=WAIT)
        self.fail()
        self.left = {name: left - 1 for name, left in self.left.items()}
        done = [name for name, left in self.left.items() if not left]
        for name in done:
            del self.left[name]
        return [SimpleNamespace(finished=True, request_id=name.partition("-")[0]) for name in done]


@pytest.fixture
def stand() -> Stand:
    return Stand()


@pytest.fixture
def thread(stand: Stand) -> Iterator[VllmThread]:
    made = VllmThread(lambda: stand, lambda: 7)
    yield made
    stand.allowed.release(1000)
    made.end(lambda _: None).exception(WAIT)
    made.join()


def test_requests_join_while_others_are_in_flight(thread: VllmThread, stand: Stand) -> None:
    long = Request([3], None)
    thread.ask(long)
    assert stand.stepped.wait(WAIT)
    short = thread.ask(Request([1], None))
    stand.allowed.release(2)
    assert short.result(WAIT).request_id == "2"
    assert not long.future.done()
    stand.allowed.release(1)
    assert long.future.result(WAIT).request_id == "1"
    assert long.version == 7


def test_a_call_waits_for_what_is_in_flight_and_later_requests_wait_for_it(thread: VllmThread, stand: Stand) -> None:
    first = thread.ask(Request([2], None))
    assert stand.stepped.wait(WAIT)
    call = thread.call(lambda inner: dict(inner.left))
    later = thread.ask(Request([1], None))
    stand.allowed.release(1)
    assert not call.done()
    stand.allowed.release(1)
    assert call.result(WAIT) == {}
    assert first.done()
    stand.allowed.release(1)
    assert later.result(WAIT)


def test_a_cancelled_request_is_aborted_and_one_that_was_not_begun_never_is(thread: VllmThread, stand: Stand) -> None:
    async def scene() -> None:
        waiting = asyncio.wrap_future(thread.ask(Request([100], None)))
        await asyncio.to_thread(stand.stepped.wait, WAIT)
        unborn = asyncio.wrap_future(thread.ask(Request([100], None)))
        for each in (waiting, unborn):
            each.cancel()
        await asyncio.gather(waiting, unborn, return_exceptions=True)
        stand.allowed.release(1)

    asyncio.run(scene())
    assert thread.call(lambda inner: dict(inner.left)).result(WAIT) == {}
    assert stand.aborted == ["1-x"]


def test_what_vllm_refuses_is_said_and_the_others_go_on(thread: VllmThread, stand: Stand) -> None:
    refused, good = thread.ask(Request([], None)), thread.ask(Request([1], None))
    with pytest.raises(EngineError, match=r"^vLLM refuses the request: an empty prompt\.$"):
        refused.result(WAIT)
    stand.allowed.release(1)
    assert good.result(WAIT)


def test_a_step_that_fails_fails_those_in_flight_and_no_others(thread: VllmThread, stand: Stand) -> None:
    def fail() -> None:
        stand.fail = lambda: None
        raise RuntimeError("out of memory")

    stand.fail = fail
    broken = thread.ask(Request([2], None))
    stand.allowed.release(1)
    with pytest.raises(EngineError, match=r"vLLM failed: out of memory\."):
        broken.result(WAIT)
    good = thread.ask(Request([1], None))
    stand.allowed.release(1)
    assert good.result(WAIT)


def test_where_not_even_aborting_works_all_later_requests_are_told(thread: VllmThread, stand: Stand) -> None:
    def fail() -> None:
        stand.left.clear()
        raise RuntimeError("the device is lost")

    stand.fail = fail
    broken = thread.ask(Request([2], None))
    stand.allowed.release(1)
    with pytest.raises(EngineError, match="the device is lost"):
        broken.result(WAIT)
    with pytest.raises(EngineError, match="it broke before"):
        thread.ask(Request([1], None)).result(WAIT)


def test_a_call_that_fails_raises_where_it_was_made(thread: VllmThread) -> None:
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda inner: 1 / 0).result(WAIT)
    assert thread.call(lambda inner: 5).result(WAIT) == 5


def test_what_is_asked_after_the_end_is_refused(stand: Stand) -> None:
    thread = VllmThread(lambda: stand, lambda: 0)
    first = thread.ask(Request([1], None))
    ended, late = thread.end(lambda inner: "ended"), thread.ask(Request([1], None))
    stand.allowed.release(1)
    assert (first.result(WAIT).request_id, ended.result(WAIT)) == ("1", "ended")
    thread.join()
    for refused in (late, thread.ask(Request([1], None)), thread.call(lambda inner: None)):
        with pytest.raises(EngineError, match="vLLM was closed"):
            refused.result(WAIT)


def broken(stand: Stand, how: str, error: BaseException) -> None:
    """Let the thread meet something that nobody has thought of."""

    def fail(*arguments: Any, **values: Any) -> Any:
        raise error

    setattr(stand, how, fail)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(("how", "error"), [("step", SystemExit("gone")), ("abort_request", RuntimeError("gone"))])
def test_where_the_thread_dies_all_who_wait_are_told_and_nobody_waits_after_that(
    stand: Stand, how: str, error: BaseException
) -> None:
    thread = VllmThread(lambda: stand, lambda: 0)
    running, leaving = thread.ask(Request([9], None)), thread.ask(Request([9], None))
    assert stand.stepped.wait(WAIT)
    call, waiting = thread.call(lambda inner: 5), thread.ask(Request([1], None))
    leaving.cancel()
    broken(stand, how, error)
    stand.allowed.release(1)
    for future in (running, call, waiting):
        with pytest.raises(EngineError, match=r"vLLM's thread has ended \(gone\): go on with --resume"):
            future.result(WAIT)
    thread.join()
    assert thread.has_died
    for late in (thread.ask(Request([1], None)), thread.call(lambda inner: 5), thread.end(lambda inner: 5)):
        with pytest.raises(EngineError, match="has ended"):
            late.result(WAIT)


def test_a_call_that_ends_the_thread_is_told_too(stand: Stand) -> None:
    def leave(inner: Any) -> None:
        raise SystemExit("out")

    thread = VllmThread(lambda: stand, lambda: 0)
    call, later = thread.call(leave), thread.call(lambda inner: 5)
    for future in (call, later):
        with pytest.raises(RefusedError, match=r"vLLM's thread has ended \(out\)"):
            future.result(WAIT)
    thread.join()


class Neighbours(LockstepThread):
    """Answers for the other process of the group, which dies when it is told to."""

    gone = False

    def _exchange(self, offer: Any) -> Any:
        if self.gone and offer.requests:
            raise RuntimeError("Connection closed by peer")
        return [offer, type(offer)()], 0


def test_what_is_offered_to_a_neighbour_that_has_died_is_told(stand: Stand) -> None:
    stand.allowed.release(1000)
    thread = Neighbours(lambda: stand, lambda: 0)
    assert thread.ask(Request([2], None)).result(WAIT)
    thread.gone = True
    offered, call = thread.ask(Request([2], None)), thread.call(lambda inner: 5)
    for future in (offered, call):
        with pytest.raises(EngineError, match=r"ended \(Connection closed by peer\)"):
            future.result(WAIT)
    thread.join()


def test_closing_an_engine_whose_thread_has_died_does_not_wait(stand: Stand) -> None:
    engine = object.__new__(VllmEngine)
    engine._closed, engine._thread = False, VllmThread(lambda: stand, lambda: 0)
    waiting = engine._thread.ask(Request([9], None))
    broken(stand, "add_request", SystemExit("gone"))
    broken(stand, "step", SystemExit("gone"))
    stand.allowed.release(1)
    assert waiting.exception(WAIT)
    asyncio.run(asyncio.wait_for(engine.aclose(), WAIT))
    asyncio.run(engine.aclose())


def test_an_engine_that_cannot_be_made_is_an_error_and_leaves_no_thread() -> None:
    def make() -> Any:
        raise EngineError("no such model")

    with pytest.raises(EngineError, match="no such model"):
        VllmThread(make, lambda: 0)
    assert until(lambda: not [each for each in threading.enumerate() if each.name == "vllm"])


# -- what does not end -------------------------------------------------------------------------------------------------


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """What something that does not end waits for; it ends with the test."""
    event = threading.Event()
    yield event
    event.set()
    assert until(lambda: not _left_behind)


def test_a_step_that_does_not_end_is_told_to_all_who_wait_and_a_new_process_is_asked_for(stand: Stand) -> None:
    dropped: list[Any] = []
    engine = object.__new__(VllmEngine)
    thread = VllmThread(lambda: stand, lambda: 0, drop=dropped.append, limits=Limits(step=0.1))
    engine._closed, engine._thread = False, thread
    running = thread.ask(Request([9], None))
    assert stand.stepped.wait(WAIT)
    call, waiting = thread.call(lambda inner: 5), thread.ask(Request([1], None))
    for future in (running, call, waiting):
        with pytest.raises(RefusedError, match=r"vLLM hangs: a step has not ended within 0.1 s \(the engine's timeout"):
            future.result(WAIT)
    with pytest.raises(RefusedError, match="vLLM hangs"):
        thread.ask(Request([1], None)).result(WAIT)
    asyncio.run(asyncio.wait_for(engine.aclose(), WAIT))
    with pytest.raises(EngineError, match="start a new process"):
        await_room()
    # It was only slow: what it holds is free again, and nobody is told twice.
    stand.allowed.release(1)
    assert until(lambda: dropped == [stand] and not _left_behind)
    await_room()


def test_a_call_that_does_not_end_is_named(stand: Stand, stuck: threading.Event) -> None:
    thread = VllmThread(lambda: stand, lambda: 0, limits=Limits(call=0.1))
    call, later = thread.call(lambda inner: stuck.wait(WAIT), "taking new weights"), thread.ask(Request([1], None))
    for future in (call, later):
        with pytest.raises(RefusedError, match=r"taking new weights has not ended within 0.1 s .*'s sync_timeout\)"):
            future.result(WAIT)


def test_a_start_that_does_not_end_is_told_where_it_was_made(stand: Stand, stuck: threading.Event) -> None:
    def make() -> Any:
        stuck.wait(WAIT)
        return stand

    with pytest.raises(RefusedError, match=r"its start has not ended within 0.1 s \(the engine's start_timeout\)"):
        VllmThread(make, lambda: 0, limits=Limits(start=0.1))


def test_neighbours_that_do_not_answer_are_told_of(stand: Stand, stuck: threading.Event) -> None:
    class Silent(LockstepThread):
        def _exchange(self, offer: Any) -> Any:
            stuck.wait(WAIT)
            return [offer], 0

    thread = Silent(lambda: stand, lambda: 0, limits=Limits(step=0.1, call=0.1))
    with pytest.raises(RefusedError, match="the wait for the processes that share its layers has not ended"):
        thread.call(lambda inner: 5).result(WAIT)


def test_after_an_accident_another_is_made_only_where_what_the_first_held_is_free(stand: Stand) -> None:
    def leave(inner: Any) -> None:
        raise SystemExit("out")

    def keep(inner: Any) -> None:
        raise EngineError("Other processes hold parts of this vLLM.")

    for drop in (lambda inner: None, keep):
        await_room()
        with pytest.raises(RefusedError, match=r"has ended \(out\)"):
            VllmThread(lambda: stand, lambda: 0, drop=drop).call(leave).result(WAIT)
    with pytest.raises(EngineError, match="start a new process"):
        await_room()
    _left_behind.clear()
