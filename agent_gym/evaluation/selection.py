"""Which episodes of a run are meant: RUN, RUN:PHASE, RUN@STEP or RUN:PHASE@STEP."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent_gym.errors import ConfigError, StoreError, UnknownIdError
from agent_gym.evaluation.outcomes import Outcomes
from agent_gym.store.run import RunFolder
from agent_gym.store.trajectories import TrajectoryStore

MEASURED = ("eval", "before", "during", "after")
"""Phases that measure; what is played for training is not among them."""
_FORM = re.compile(r"(?P<path>.*?)(:(?P<phase>\w+))?(@(?P<step>\d+))?")


@dataclass(frozen=True, slots=True)
class Part:
    """Episodes that were played together: one suite, at one step of one phase."""

    phase: str
    step: int
    suite: str


@dataclass(frozen=True, slots=True)
class Selection:
    """Some of a run's episodes; where neither phase nor step is named, what the run measured last."""

    run: RunFolder
    phase: str | None = None
    step: int | None = None

    def __str__(self) -> str:
        phase = "" if self.phase is None else f":{self.phase}"
        return f"{self.run.path}{phase}" + ("" if self.step is None else f"@{self.step}")


def select(text: str) -> Selection:
    """Read RUN, RUN:PHASE, RUN@STEP or RUN:PHASE@STEP; a folder that is there under the whole name wins.

    Raises:
        StoreError: There is no run in that folder.
    """
    if (Path(text) / "config.yaml").is_file():
        return Selection(RunFolder.open(Path(text)))
    match = _FORM.fullmatch(text)
    if match is None or not match["path"]:
        raise ConfigError(f"{text!r} names no run: write RUN, RUN:PHASE, RUN@STEP or RUN:PHASE@STEP.")
    step = None if match["step"] is None else int(match["step"])
    return Selection(RunFolder.open(Path(match["path"])), match["phase"], step)


def measured(run: RunFolder) -> dict[Part, Outcomes]:
    """Return everything that a run measured, in order."""
    with _reading(run) as store:
        phases = [phase for phase in MEASURED if phase in store.phases()]
        return _gather(store, phases, None)


def chosen(selection: Selection) -> dict[Part, Outcomes]:
    """Return the episodes that are meant.

    Raises:
        UnknownIdError: The run has no such phase or step.
        StoreError: The run has not measured anything.
    """
    with _reading(selection.run) as store:
        known = store.phases()
        if selection.phase is not None and selection.phase not in known:
            raise UnknownIdError.of("phase", selection.phase, known)
        phases = [selection.phase] if selection.phase is not None else [one for one in MEASURED if one in known]
        parts = _gather(store, phases, selection.step)
    if not parts:
        when = "" if selection.step is None else f" at step {selection.step}"
        raise StoreError(
            f"The run {selection.run.path} has measured nothing{when}: name a phase or step that it has, as "
            "RUN:PHASE@STEP, or let it play first."
        )
    # A part of a later step, or of a later phase at the same step, takes the place of an earlier one.
    last = max((part.step, phases.index(part.phase)) for part in parts)
    return {part: found for part, found in parts.items() if (part.step, phases.index(part.phase)) == last}


def measured_phases(run: RunFolder) -> list[str]:
    """Return the phases in which a run measured something."""
    with _reading(run) as store:
        known = store.phases()
    return [phase for phase in MEASURED if phase in known]


def _gather(store: TrajectoryStore, phases: list[str], step: int | None) -> dict[Part, Outcomes]:
    parts: dict[Part, Outcomes] = {}
    for phase in phases:
        for row in store.outcomes(phase=phase):
            if step is not None and row.step != step:
                continue
            part = Part(phase, row.step, suite_name(row.suite, row.env_id, row.split))
            if part not in parts:
                parts[part] = Outcomes()
            parts[part].add(row)
    return parts


def suite_name(suite: str, env_id: str, split: str) -> str:
    """Return what episodes belong to: their suite, or else the split of their environment."""
    # Not with a slash: "alfworld/valid_unseen" is a suite of official games, and these may be any.
    return suite or (f"{env_id}:{split}" if split else env_id)


@contextmanager
def _reading(run: RunFolder) -> Iterator[TrajectoryStore]:
    with TrajectoryStore.reading(run.path / "trajectories.sqlite") as store:
        yield store
