"""A person at a terminal, who plays episodes that are recorded like any other."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from agent_gym.trajectory import Trajectory


class Terminal:
    """Shows texts and asks for actions."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)

    def ask(self) -> str | None:
        """Return what the person types; None after Ctrl-D or Ctrl-C."""
        try:
            with _interruptible():
                return self._console.input("\n[bold green]> [/bold green]")
        except (EOFError, KeyboardInterrupt):
            self._console.print("\nended by you; the unfinished episode is not kept")
            return None

    def tell(self, text: str) -> None:
        """Show a text as it is."""
        self._console.print(escape(text))

    def tell_end(self, trajectory: Trajectory) -> None:
        """Show how an episode ended."""
        self.tell(trajectory.final_observation)
        verdict = (
            f"failed: {trajectory.error}" if trajectory.error else "solved" if trajectory.success else "not solved"
        )
        self.tell(f"\n{verdict} after {len(trajectory.turns)} turns, score {trajectory.score:.2f}\n")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end a wait for input: an event loop would only note it, and wait on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
