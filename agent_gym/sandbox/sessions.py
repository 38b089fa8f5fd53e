"""Sandboxes made of boxes: what is the same whichever backend makes the boxes."""

import atexit
import logging
import os
import threading
import time
import weakref
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial

from agent_gym.errors import AgentGymError, SandboxError
from agent_gym.sandbox.base import (
    Language,
    Limits,
    Result,
    Sandbox,
    check_language,
)
from agent_gym.sandbox.box_session import BoxSession, checked_files, checked_seconds, encoded, read, write
from agent_gym.sandbox.boxes import Box
from agent_gym.sandbox.channels import BoxLost

logger = logging.getLogger(__name__)


class BoxSandbox(Sandbox):
    """A sandbox whose runs and sessions are boxes.

    Args:
        limits: What code may use.
        concurrency: Calls that run at once.
    """

    can_fork = False
    """Whether boxes can be forked; a session's cells are replayed otherwise."""

    def __init__(self, limits: Limits, concurrency: int) -> None:
        super().__init__(limits, concurrency)
        self._gate = threading.BoundedSemaphore(concurrency)
        self._sessions: weakref.WeakSet[BoxSession] = weakref.WeakSet()
        self._closing = threading.Event()
        self._keeper: threading.Thread | None = None
        self._guard = threading.Lock()
        self._owner = os.getpid()
        self._spares: deque[Box] = deque()
        self._forgotten: deque[Box] = deque()
        """Boxes of sessions that nobody has closed."""
        self._busy = False
        """A second box was needed: it pays to have some ready."""
        self._waiting = min(concurrency, os.cpu_count() or 1)
        self._housekeeper = ThreadPoolExecutor(1, thread_name_prefix="sandbox-housekeeper")

    @property
    def usable(self) -> bool:
        """See `Sandbox.usable`."""
        return not self._closing.is_set() and self._owner == os.getpid()

    @abstractmethod
    def _open_box(self) -> Box:
        """Start a box.

        Raises:
            BoxLost: It did not begin.
            SandboxError: The backend has failed.
        """

    def _fork_box(self, box: Box) -> Box:
        """Fork a box; only where `can_fork`."""
        raise NotImplementedError

    def _take_box(self) -> Box:
        """Return a box that nothing has touched: one that is waiting if there is one; others are made meanwhile."""
        try:
            box = self._spares.popleft()
        except IndexError:
            box = self._open_box()
        _open_sandboxes.add(self)
        if self._busy:
            self._at_leisure(self._make_spares)
        if self._forgotten:
            self._at_leisure(partial(_close_each, self._forgotten))
        self._busy = True
        return box

    def _make_spares(self) -> None:
        try:
            while len(self._spares) < self._waiting and self.usable:
                self._spares.append(self._open_box())
        except (BoxLost, AgentGymError) as error:
            # Whoever needs a box will meet the same, and can say so.
            logger.info("No box could be made in advance: %s.", error)

    def _drop_spares(self) -> None:
        _close_each(self._spares)

    def _at_leisure(self, work: Callable[[], None]) -> None:
        """Do something when there is time; at once when the sandbox is being closed."""
        try:
            self._housekeeper.submit(work)
        except RuntimeError:
            work()

    def _explained(self, error: BoxLost) -> str:
        """Return why a box was lost, as far as the backend knows."""
        return str(error)

    def run(
        self,
        code: str,
        *,
        language: Language = "python",
        stdin: bytes = b"",
        timeout: float | None = None,
        files: Mapping[str, bytes] | None = None,
        collect: Sequence[str] = (),
    ) -> Result:
        """See `Sandbox.run`."""
        check_language(language)
        limit, sent = checked_seconds(timeout, self.limits), encoded(code, stdin)
        with self._gate:
            return self._twice(lambda box: _run_once(box, sent, language, stdin, limit, files or {}, collect))

    def session(self) -> BoxSession:
        """See `Sandbox.session`."""
        session = BoxSession(self)
        with self._guard:
            self._check_open()
            self._sessions.add(session)
            if self._keeper is None:
                self._keeper = threading.Thread(
                    target=_keep, args=(weakref.ref(self), self._closing), name="sandbox-keeper", daemon=True
                )
                self._keeper.start()
        return session

    def close(self) -> None:
        """See `Sandbox.close`."""
        self._closing.set()
        for session in self._living():
            session.close()
        self._housekeeper.shutdown(wait=True)
        self._drop_spares()
        _close_each(self._forgotten)
        if self._keeper is not None and self._keeper is not threading.current_thread():
            self._keeper.join()

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise SandboxError("The sandbox was closed: make a new one.")
        if self._owner != os.getpid():
            raise SandboxError("This sandbox belongs to the process that this one was forked from: make a new one.")

    def _twice(self, work: Callable[[Box], Result]) -> Result:
        """Do some work in a box of its own; if the box is lost, in a second one."""
        for attempt in range(2):
            self._check_open()
            try:
                # What took the first box may have taken those that wait, too.
                box = self._open_box() if attempt else self._take_box()
                try:
                    return work(box)
                finally:
                    self._at_leisure(box.close)
            except BoxLost as error:
                self._drop_spares()
                logger.warning("A sandbox was lost: %s.", self._explained(error))
                lost = error
                if attempt:
                    break
        raise SandboxError(f"The sandbox {self.name!r} has failed twice ({lost}): see the log.") from lost

    def _living(self) -> list[BoxSession]:
        with self._guard:
            return list(self._sessions)

    def _expire(self, now: float) -> None:
        for session in self._living():
            session.expire(now)
        _close_each(self._forgotten)


def _close_each(boxes: deque[Box]) -> None:
    with suppress(IndexError):
        while True:
            boxes.popleft().close()


_open_sandboxes: "weakref.WeakSet[BoxSandbox]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Leave nothing behind when the process ends; what it was forked from keeps its own."""
    for sandbox in list(_open_sandboxes):
        if sandbox.usable:
            sandbox.close()


def _run_once(
    box: Box,
    code: bytes,
    language: Language,
    stdin: bytes,
    seconds: float,
    files: Mapping[str, bytes],
    collect: Sequence[str],
) -> Result:
    if files:
        write(box, checked_files(files, box.limits))
    result = box.run(code, language, stdin, seconds, echo=False)
    if collect and not result.files_lost:
        result = replace(result, files=read(box, collect))
    return result


def _keep(sandbox: "weakref.ref[BoxSandbox]", closing: threading.Event) -> None:
    """End sessions whose time is over, for as long as their sandbox lives."""
    while (alive := sandbox()) is not None:
        limits = alive.limits
        alive._expire(time.monotonic())
        del alive
        if closing.wait(min(limits.idle_seconds, limits.session_seconds, 60.0) / 4):
            return
