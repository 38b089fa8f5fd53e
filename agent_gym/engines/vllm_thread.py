"""The thread that vLLM runs in: requests join while others are in flight, and whoever asks waits without blocking.

All that is done to vLLM is done here, in the order in which it is asked for; event loops come and go, and the thread
serves them all.
"""

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from agent_gym.engines.vllm_watch import Limits, Watch
from agent_gym.errors import EngineError, RefusedError

logger = logging.getLogger(__name__)

_left_behind: "set[VllmThread]" = set()
"""Those that came to a bad end, as long as what vLLM holds is not free: no other vLLM can be made beside it."""


@dataclass(eq=False)
class Request:
    """A request to vLLM and who waits for it."""

    prompt_ids: list[int]
    parameters: Any
    """vLLM's `SamplingParams`."""
    version: int = 0
    """Of the weights that it runs under, from its first token to its last; known once it runs."""
    future: "Future[Any]" = field(default_factory=Future)
    """Of vLLM's `RequestOutput`."""


@dataclass(eq=False)
class _Call:
    """Something to do while no request is in flight."""

    function: Callable[[Any], Any]
    what: str
    """Errors call it so."""
    last: bool = False
    """Whether the thread ends with it."""
    future: "Future[Any]" = field(default_factory=Future)


class VllmThread:
    """Steps vLLM for as long as there are requests.

    Args:
        make: Makes the engine, in this thread; whatever it raises is raised here.
        version: Returns the version of the weights.
        drop: Frees what the engine holds, after an accident that ended the thread.
        limits: How long things may take.

    Raises:
        RefusedError: vLLM takes too long to start.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        version: Callable[[], int],
        *,
        drop: Callable[[Any], None] = lambda engine: None,
        limits: Limits | None = None,
    ) -> None:
        self._make = make
        self._version = version
        self._drop = drop
        self._limits = limits or Limits()
        self._inbox: queue.SimpleQueue[Request | _Call] = queue.SimpleQueue()
        self._waiting: deque[Request | _Call] = deque()
        self._running: dict[str, Request] = {}
        self._count = 0
        self._broken = ""
        self._ended = False
        self._died: BaseException | None = None
        """What ended the thread before anybody asked for its end, or that it hangs."""
        self._ending = threading.Lock()
        self._engine: Any = None
        self._made: Future[None] = Future()
        self._watch = Watch(self._limits, self._hangs)
        self._thread = threading.Thread(target=self._run, name="vllm", daemon=True)
        self._thread.start()
        self._made.result()

    def ask(self, request: Request) -> "Future[Any]":
        """Let vLLM answer a request; cancelling the future takes it out of vLLM."""
        return self._put(request)

    def call(self, function: Callable[[Any], Any], what: str = "a call") -> "Future[Any]":
        """Call a function with the engine once all requests before it have ended; those after it wait for it.

        Args:
            function: Takes the engine.
            what: Errors call it so.
        """
        return self._put(_Call(function, what))

    def end(self, function: Callable[[Any], Any]) -> "Future[Any]":
        """Call a function as `call` does, and take no more requests."""
        return self._put(_Call(function, "its end", last=True))

    @property
    def has_died(self) -> bool:
        """Whether it has ended before anybody asked for its end, or hangs."""
        return self._died is not None

    def join(self) -> None:
        """Wait for the end, once `end` was called; not for what hangs."""
        self._thread.join(0 if self._watch.found else self._limits.call)

    def _put(self, item: "Request | _Call") -> "Future[Any]":
        with self._ending:
            if not self._ended:
                self._inbox.put(item)
                return item.future
        item.future.set_exception(self._gone())
        return item.future

    # -- the loop --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with self._watch.within("its start", self._limits.start, "start_timeout"):
                self._engine = self._make()
            self._made.set_result(None)
            self._serve()
        except BaseException as error:
            if not self._made.done():
                # Raised where the thread was started.
                self._made.set_exception(error)
            elif self._died is None:
                # Those who wait would do so for ever.
                logger.exception("vLLM's thread ended; all that wait for it end with it.")
                self._died = error
                _left_behind.add(self)
        finally:
            self._watch.end()
            self._refuse_all()
            if self._died is not None:
                self._let_go()
            self._engine = None

    def _serve(self) -> None:
        going_on = True
        while going_on:
            self._receive()
            self._abort_abandoned()
            going_on = self._begin()
            if self._running:
                self._advance()

    def _hangs(self, error: RefusedError) -> None:
        """Tell those who wait, while vLLM's thread does something that does not end."""
        self._died = error
        _left_behind.add(self)
        if not self._made.done():
            self._made.set_exception(error)
        self._refuse_all()

    def _let_go(self) -> None:
        """Free what vLLM holds, so that another can be made; also where what hung has ended after all."""
        try:
            if self._engine is not None:
                self._drop(self._engine)
        except Exception:
            logger.warning("What vLLM holds could not be freed.", exc_info=True)
        else:
            _left_behind.discard(self)

    def _receive(self) -> None:
        """Take what was asked for meanwhile; wait for it where there is nothing else to do."""
        if not self._running and not self._waiting:
            self._waiting.append(self._inbox.get())
        self._drain()

    def _drain(self) -> None:
        while not self._inbox.empty():
            self._waiting.append(self._inbox.get())

    def _abort_abandoned(self) -> None:
        abandoned = [number for number, request in self._running.items() if request.future.cancelled()]
        if abandoned:
            self._engine.abort_request(abandoned, internal=True)
        for number in abandoned:
            del self._running[number]

    def _begin(self) -> bool:
        """Begin what waits, up to a call that must wait itself; return whether the thread goes on."""
        while self._waiting:
            item = self._waiting[0]
            if isinstance(item, _Call) and self._running:
                return True
            if not item.future.cancelled():
                self._call(item) if isinstance(item, _Call) else self._add(item)
            self._waiting.popleft()
            if isinstance(item, _Call) and item.last:
                return False
        return True

    def _call(self, call: _Call) -> None:
        if not call.future.set_running_or_notify_cancel():
            return
        try:
            with self._watch.within(call.what, self._limits.call, "sync_timeout"):
                result = call.function(self._engine)
        except Exception as error:  # noqa: BLE001 - it is raised where the call was made
            call.future.set_exception(error)
        else:
            call.future.set_result(result)

    def _add(self, request: Request) -> None:
        self._count += 1
        request.version = self._version()
        try:
            if self._broken:
                raise RuntimeError(self._broken)
            prompt = {"type": "token", "prompt_token_ids": request.prompt_ids}
            number = self._engine.add_request(str(self._count), prompt, request.parameters)
        except Exception as error:  # noqa: BLE001 - vLLM's checks of a request raise all kinds
            _fail(request, f"vLLM refuses the request: {_words(error)}", error)
            return
        # Before 0.24 it returns nothing, and knows the request by the name that it was given.
        self._running[number or str(self._count)] = request

    def _advance(self) -> None:
        try:
            with self._watch.within("a step", self._limits.step, "timeout"):
                outputs = self._engine.step()
        except Exception as error:
            logger.exception("vLLM failed; %d requests end with it.", len(self._running))
            self._drop_all(error)
            return
        for output in outputs:
            if output.finished:
                request = self._by_output(output)
                if request is not None and request.future.set_running_or_notify_cancel():
                    request.future.set_result(output)

    def _by_output(self, output: Any) -> Request | None:
        """Return the request of an output, which names it by the name that we gave or by vLLM's own."""
        name = output.request_id
        if name not in self._running:
            name = next((each for each in self._running if each.startswith(f"{name}-")), name)
        return self._running.pop(name, None)

    def _drop_all(self, error: Exception) -> None:
        requests, names = list(self._running.values()), list(self._running)
        self._running.clear()
        try:
            self._engine.abort_request(names, internal=True)
        except Exception as second:  # noqa: BLE001 - it is reported with every request from now on
            self._broken = f"it broke before: {_words(second)}"
        for request in requests:
            _fail(request, f"vLLM failed: {_words(error)}", error)

    def _left(self) -> "list[Request | _Call]":
        """Return those who wait for something that will not come."""
        left = [*self._running.values(), *self._waiting]
        self._running.clear()
        self._waiting.clear()
        while not self._inbox.empty():
            left.append(self._inbox.get())
        return left

    def _refuse_all(self) -> None:
        """Tell those who wait, and whoever asks from now on, that there is nothing to wait for."""
        with self._ending:
            self._ended = True
        for item in self._left():
            waits = item.future.running() or (not item.future.done() and item.future.set_running_or_notify_cancel())
            if waits:
                item.future.set_exception(self._gone())

    def _gone(self) -> EngineError:
        if self._died is None:
            return EngineError("vLLM was closed: make the engine anew.")
        if self._watch.found:
            return RefusedError(str(self._died))
        error = RefusedError(f"vLLM's thread has ended ({_words(self._died)}): go on with --resume.")
        error.__cause__ = self._died
        return error


def await_room() -> None:
    """Wait until what accidents have left of vLLM in this process is gone.

    Raises:
        EngineError: It stays.
    """
    for thread in list(_left_behind):
        thread.join()
    if _left_behind:
        raise EngineError(
            "vLLM cannot be started again in this process, as one that came to a bad end still holds its memory: "
            "start a new process."
        )


def _fail(request: Request, sentence: str, cause: Exception) -> None:
    if request.future.set_running_or_notify_cancel():
        failure = EngineError(f"{sentence.rstrip('.')}.")
        failure.__cause__ = cause
        request.future.set_exception(failure)


def _words(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
