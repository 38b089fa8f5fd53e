"""One actor of Ray as the process sees it that plays: asked, with a time-out, alone or several questions at once.

A message to an actor takes most of a millisecond, whatever it says. Questions that come together therefore travel
together: those that a loop of asyncio asks in one round, and those that are asked while an answer is on its way.
"""

import asyncio
import pickle
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, ClassVar, Protocol
from weakref import WeakKeyDictionary

from agent_gym.errors import WorkerError
from agent_gym.rollout.ray_actor import Call

_TOGETHER_SECONDS = 0.02
"""Questions travel together as long as their answers take no longer: the first is not held up by the last."""


class Owner(Protocol):
    """Whose actor it is."""

    ray: Any
    timeout: float

    def lost(self, link: "Link") -> None:
        """Hear that the actor cannot be used any more."""


class Link:
    """An actor.

    Args:
        owner: Whose it is.
        actor: Ray's handle of it.
    """

    WAITING: ClassVar[str] = "waiting"
    """The threads of an actor for environments that wait for others; all else it does one after the other."""

    def __init__(self, owner: Owner, actor: Any) -> None:
        self.actor = actor
        self.environments = 0
        self.dead: str | None = None
        """What happened to it."""
        self.place: dict[str, str] = {}
        self.placed = actor.place.remote()
        self._owner = owner
        self._ray = owner.ray
        # A connection through ray:// that breaks is no error of Ray's own.
        self._lost = (owner.ray.exceptions.RayError, ConnectionError, TimeoutError)
        self._born = time.monotonic()
        self._serve = actor.serve
        self._answer = actor.answer
        self._wait = actor.answer.options(concurrency_group=self.WAITING)
        self._queues: WeakKeyDictionary[asyncio.AbstractEventLoop, _Queue] = WeakKeyDictionary()

    @property
    def node(self) -> str:
        """Ray's id of the machine; empty where it has not been placed."""
        return self.place.get("node", "")

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"The Ray actor {self.actor._actor_id.hex()[:8]} on node {self.node[:8] or '?'}"

    @property
    def age(self) -> float:
        """Seconds since it was asked for."""
        return time.monotonic() - self._born

    def ready(self) -> bool:
        """Whether it lives and can be asked."""
        if self.dead is None and not self.place:
            try:
                if self._ray.wait([self.placed], timeout=0)[0]:
                    self.place = self._ray.get(self.placed)
            except self._lost as error:
                self.failed(error)
        return self.dead is None and bool(self.place)

    def end(self) -> None:
        """End the process, if there still is one."""
        with suppress(Exception):
            self._ray.kill(self.actor)

    # -- questions -------------------------------------------------------------------------------------------------

    def ask(self, call: Call, *, waits: bool = False) -> Any:
        """Ask and wait for the answer.

        Args:
            call: The question.
            waits: Whether the environment itself waits for another process; then others go on meanwhile.

        Raises:
            WorkerError: The actor is dead or did not answer in time.
            Exception: What the environment raised.
        """
        self._check()
        try:
            answer = self._ray.get((self._wait if waits else self._answer).remote(call), timeout=self._owner.timeout)
        except self._lost as error:
            raise self.failed(error) from error
        return _opened(answer)

    def tell(self, call: Call) -> None:
        """Ask without waiting for an answer; nothing is said where nobody is there."""
        if self.dead is None:
            with suppress(*self._lost):
                self._answer.remote(call)

    async def soon(self, call: Call, *, waits: bool = False) -> Any:
        """See `ask`; others go on meanwhile."""
        self._check()
        if waits:
            return _opened(await self._awaited(lambda: self._wait.remote(call)))
        loop = asyncio.get_running_loop()
        queue = self._queues.get(loop)
        if queue is None:
            queue = self._queues[loop] = _Queue(self)
        return _opened(await queue.ask(call))

    async def serve(self, calls: list[Call]) -> list[bytes]:
        """Send questions and wait for the answers to all.

        Raises:
            WorkerError: The actor is dead or did not answer in time.
        """
        answers: list[bytes] = await self._awaited(lambda: self._serve.remote(calls))
        return answers

    async def _awaited(self, send: Callable[[], Any]) -> Any:
        try:
            async with asyncio.timeout(self._owner.timeout):
                return await send()
        except self._lost as error:
            raise self.failed(error) from error

    def failed(self, error: Exception) -> WorkerError:
        """Note that the actor is of no use any more; return the error that says so."""
        if self.dead is None:
            if isinstance(error, TimeoutError):
                self.dead = f"did not answer within {self._owner.timeout:g} s and was ended (rollout.ray_timeout)"
            else:
                self.dead = f"has died ({type(error).__name__})"
            self._owner.lost(self)
        return self._gone()

    def _check(self) -> None:
        if self.dead is not None:
            raise self._gone()

    def _gone(self) -> WorkerError:
        return WorkerError(f"{self.title} {self.dead}; the next reset() uses another.")


class _Queue:
    """Questions of one loop to one actor.

    Args:
        link: The actor.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._waiting: list[tuple[Call, asyncio.Future[bytes]]] = []
        self._journey: asyncio.Task[None] | None = None
        self._seconds = _TOGETHER_SECONDS
        """What an answer takes, from the last ones: the first that are asked travel alone."""

    def ask(self, call: Call) -> Awaitable[bytes]:
        """Return what will hold the answer."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        self._waiting.append((call, future))
        if self._journey is None:
            # It begins when everybody who is about to ask in this round has asked.
            self._journey = loop.create_task(self._travel())
        return future

    async def _travel(self) -> None:
        """Carry questions and answers until there are none."""
        try:
            while self._waiting:
                count = max(1, int(_TOGETHER_SECONDS / self._seconds))
                batch, self._waiting = self._waiting[:count], self._waiting[count:]
                await self._carry(batch)
        finally:
            self._journey = None
            # Where it was cancelled, so is everybody who waits.
            for _, future in self._waiting:
                future.cancel()

    async def _carry(self, batch: list[tuple[Call, "asyncio.Future[bytes]"]]) -> None:
        started = time.perf_counter()
        try:
            answers = await self._link.serve([call for call, _ in batch])
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody who has asked may wait for ever
            for _, future in batch:
                if not future.done():
                    future.set_exception(WorkerError(str(error)) if isinstance(error, WorkerError) else error)
            return
        # The share of the journey itself falls away with the number of those who travel.
        taken = (time.perf_counter() - started) / len(batch)
        self._seconds += (taken - self._seconds) / 4
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)


def _opened(answer: bytes) -> Any:
    kind, value = pickle.loads(answer)
    if kind == "raised":
        raise value
    return value
