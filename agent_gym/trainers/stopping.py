"""Ending a run when it is asked to: by Ctrl-C, or by SIGTERM, as clusters do before they take a machine away."""

import logging
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Self

from agent_gym.errors import StoppedError

logger = logging.getLogger(__name__)

_SAME = 1.0
"""Seconds in which a second Ctrl-C counts as the first: launchers hand on what the terminal has sent already."""


class Stopping:
    """Listens to SIGTERM while a run goes on, and to Ctrl-C while it trains; use it as a context manager.

    While episodes are played, the weights are those of the last step: a signal breaks off at once. At any other time it
    waits until the step is done, which is soon; a second Ctrl-C does not. Outside the main thread nothing is heard.

    Args:
        alone: Whether this process trains alone. Where several do, none may break off before all know: the signal waits
            for the end of the step.
    """

    def __init__(self, *, alone: bool) -> None:
        self.asked: int | None = None
        """The signal that has come."""
        self.settled = False
        """Whether the run broke off where its weights are those of the last step, so that they can be kept."""
        self._alone = alone
        self._playing = False
        self._at = 0.0
        self._interrupt: Any = None
        """What answers Ctrl-C where this object does not, while it holds the first one back."""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(_answered(signal.SIGTERM, self._hear))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @contextmanager
    def training(self) -> Iterator[None]:
        """Say that what is done is worth waiting for: steps, and their checkpoints."""
        usual = signal.getsignal(signal.SIGINT)
        if not callable(usual):
            # Ctrl-C is ignored here, as in what a shell has put into the background.
            yield
            return
        self._interrupt = usual
        try:
            with _answered(signal.SIGINT, self._hear):
                yield
        finally:
            self._interrupt = None

    @contextmanager
    def playing(self) -> Iterator[None]:
        """Say that the weights stay as they are meanwhile.

        Raises:
            KeyboardInterrupt: The run shall end.
        """
        with ExitStack() as stack:
            if self._alone and self._interrupt is not None:
                # Loops of asyncio answer Ctrl-C by cancelling what they run, unless somebody else answers it.
                stack.enter_context(_answered(signal.SIGINT, self._interrupt))
            try:
                self._playing = True
                if self.asked and self._alone:
                    raise KeyboardInterrupt
                yield
            except KeyboardInterrupt:
                self.settled = self._alone
                raise
            finally:
                self._playing = False

    def heed(self, asked: Sequence[int | None]) -> None:
        """End the run at the end of a step, where one of its processes has been asked to.

        Args:
            asked: The signal that each of them has heard.

        Raises:
            KeyboardInterrupt: One has.
        """
        heard = next(filter(None, asked), None)
        if heard is not None:
            self.asked, self.settled = heard, True
            raise KeyboardInterrupt

    def _hear(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self.asked and now - self._at > _SAME:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self._at = number, now
        if self._playing and self._alone:
            # Loops of asyncio do for this what they do for Ctrl-C, too.
            interrupt = signal.getsignal(signal.SIGINT)
            if callable(interrupt):
                interrupt(signal.SIGINT, frame)
            else:
                raise KeyboardInterrupt
        elif number == signal.SIGINT and self._alone:
            logger.warning("The run ends with this step; Ctrl-C once more breaks it off.")

    def error(self, steps: int, folder: Path) -> StoppedError:
        """Return what the run ends with.

        Args:
            steps: Steps done.
            folder: Where it is kept.
        """
        number = self.asked or signal.SIGINT
        why = "Stopped by SIGTERM" if number == signal.SIGTERM else "Interrupted"
        return StoppedError(f"{why} after {steps} steps; go on with --resume (run folder {folder}).", 128 + number)


@contextmanager
def _answered(number: int, answer: Any) -> Iterator[None]:
    """Let a signal be answered; in the main thread, which alone can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, answer)
    try:
        yield
    finally:
        signal.signal(number, before or signal.SIG_DFL)
