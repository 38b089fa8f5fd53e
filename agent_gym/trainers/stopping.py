"""Ending a run when it is asked to: by Ctrl-C, or by SIGTERM, as clusters do before they take a machine away."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Self

from agent_gym.errors import StoppedError


class Stopping:
    """Listens to SIGTERM while a run goes on; use it as a context manager.

    While episodes are played, the weights are those of the last step: the signal breaks off at once, as Ctrl-C does.
    At any other time it waits until the step is done, which is soon. Outside the main thread nothing is heard.

    Args:
        alone: Whether this process trains alone. Where several do, none may break off before all know: the signal waits
            for the end of the step.
    """

    def __init__(self, *, alone: bool) -> None:
        self.asked = False
        """Whether SIGTERM has come."""
        self.settled = False
        """Whether the run broke off where its weights are those of the last step, so that they can be kept."""
        self._alone = alone
        self._playing = False
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *error: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)

    @contextmanager
    def playing(self) -> Iterator[None]:
        """Say that the weights stay as they are meanwhile.

        Raises:
            KeyboardInterrupt: The run shall end.
        """
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

    def end(self) -> None:
        """End the run at a moment at which all processes do.

        Raises:
            KeyboardInterrupt: Always.
        """
        self.settled = True
        raise KeyboardInterrupt

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if not (self._playing and self._alone):
            return
        # Loops of asyncio answer Ctrl-C by cancelling what they run, and do so for this, too.
        interrupt = signal.getsignal(signal.SIGINT)
        if callable(interrupt):
            interrupt(signal.SIGINT, frame)
        else:
            raise KeyboardInterrupt

    def error(self, steps: int, folder: Path) -> StoppedError:
        """Return what the run ends with.

        Args:
            steps: Steps done.
            folder: Where it is kept.
        """
        number = signal.SIGTERM if self.asked else signal.SIGINT
        why = "Stopped by SIGTERM" if self.asked else "Interrupted"
        return StoppedError(f"{why} after {steps} steps; go on with --resume (run folder {folder}).", 128 + number)
