"""Who hears how far a run has come."""

from typing import Protocol


class Listener(Protocol):
    """Hears what a run does; the command line draws progress from it."""

    def stage(self, name: str, total: int) -> None:
        """A stage ("demonstrations", "warm start", "before", "training", "after") of `total` units begins."""

    def advance(self, metrics: dict[str, float]) -> None:
        """One unit of the stage is done."""


class Silence:
    """A listener that does nothing."""

    def stage(self, name: str, total: int) -> None:
        """See `Listener.stage`."""

    def advance(self, metrics: dict[str, float]) -> None:
        """See `Listener.advance`."""
