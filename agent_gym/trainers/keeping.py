"""What a run writes down: metrics, episodes and what training made of them. Of many processes one does."""

from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from agent_gym.store.run import RunFolder
from agent_gym.store.tracking import tracked
from agent_gym.store.trajectories import TrajectoryStore
from agent_gym.trainers.signals import Signals
from agent_gym.trajectory import Trajectory


class Keeper:
    """Writes into a run folder, or does not.

    Args:
        run: The folder.
        tracking: Which programs are told of the metrics as well.
        writes: Whether this process writes at all.
    """

    def __init__(self, run: RunFolder, tracking: list[Any], *, writes: bool) -> None:
        self.run = run
        self.tracking = tracking
        self.writes = writes
        self._store: TrajectoryStore | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        if self.writes:
            with ExitStack() as opening:
                opening.enter_context(tracked(self.run, self.tracking))
                self._store = opening.enter_context(self.run.trajectories())
                self._open = opening.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._store = None
        self._open.__exit__(kind, error, at)

    def log(self, record: dict[str, Any]) -> None:
        """Append a record to the metrics.

        Raises:
            StoreError: It cannot be written.
        """
        if self.writes:
            self.run.log(record)

    def keep(
        self,
        trajectories: list[Trajectory],
        step: int,
        phase: str,
        split: str | None,
        signals: Signals | None = None,
    ) -> None:
        """Store episodes, and what training made of their tokens.

        Raises:
            StoreError: They cannot be written.
        """
        if self._store is None:
            return
        for trajectory in trajectories:
            trajectory.metadata["split"] = split or ""
        self._store.add(trajectories, step=step, phase=phase)
        if signals is not None:
            self._store.add_signals(step, signals)
