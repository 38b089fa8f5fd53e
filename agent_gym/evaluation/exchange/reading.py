"""A run's episodes one after the other: of a million never more than a page is in memory."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agent_gym.errors import StoreError, UnknownIdError
from agent_gym.evaluation.resuming import suite_records
from agent_gym.store.episodes import EpisodeFilter
from agent_gym.store.run import RunFolder
from agent_gym.store.trajectories import TrajectoryStore
from agent_gym.trajectory import Trajectory

_PAGE: Final = 256


@dataclass(frozen=True, slots=True)
class Stored:
    """An episode, and where in a run it stands."""

    trajectory: Trajectory
    step: int
    phase: str
    signals: dict[str, list[float]] = field(default_factory=dict)
    """What training made of its tokens, by name: (T,) each."""
    model: str = ""
    """Whose answers they are; empty where it is not known."""

    @property
    def suite(self) -> str:
        """The suite that it was played for; empty where there was none."""
        return self.trajectory.metadata.get("suite", "")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which episodes of a run."""

    phase: str | None = None
    suite: str | None = None
    successes: bool = False
    """Only those that succeeded."""

    @property
    def filter(self) -> EpisodeFilter:
        """The same for the store."""
        return EpisodeFilter(phase=self.phase, suite=self.suite, success=True if self.successes else None)


def stored_episodes(run: Path, selection: Selection, *, signals: bool = False) -> Iterator[Stored]:
    """Yield the episodes of a run in the order in which they were stored; the run may be going on meanwhile.

    Args:
        run: A run folder.
        selection: Which of them.
        signals: Also read what training made of the tokens.

    Raises:
        StoreError: The run has no episodes, or they cannot be read.
    """
    path = run / "trajectories.sqlite"
    if not path.is_file():
        raise StoreError(f"The run {run} has no episodes yet: {path.name} is not there; give another run.")
    model = model_of(RunFolder.open(run).config)
    with TrajectoryStore.reading(path) as store:
        after: str | None = None
        while page := store.episodes(selection.filter, order="oldest", limit=_PAGE, after=after):
            for row in page:
                made = store.signals(row.id) if signals else {}
                try:
                    trajectory = store.get(row.id)
                except UnknownIdError:
                    # It is being played again, and was removed after its page was read.
                    continue
                yield Stored(trajectory, row.step, row.phase, made, trajectory.metadata.get("model", model))
            after = page[-1].cursor("oldest")


def model_of(config: dict[str, Any]) -> str:
    """Return the model that a run's configuration names; empty where it names none."""
    model = config.get("model")
    return str((model.get("path") if isinstance(model, dict) else model) or "")


class SystemPrompts:
    """What stood before the first observations of a run's episodes.

    Args:
        run: The run.

    Raises:
        StoreError: Its configuration cannot be read.
    """

    def __init__(self, run: RunFolder) -> None:
        self._default = _prompt(run.config)
        self._of_suites = {str(suite.get("name")): _prompt(suite) for suite in suite_records(run.path)}

    def of(self, stored: Stored) -> str:
        """Return the system prompt of an episode; empty where there was none."""
        return self._of_suites.get(stored.suite, self._default)


def _prompt(section: dict[str, Any]) -> str:
    return str((section.get("rollout") or {}).get("system_prompt") or "")
