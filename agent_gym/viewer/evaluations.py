"""Tables of an evaluation and comparisons of two, computed when something was written and kept until then."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from agent_gym.errors import UnknownIdError
from agent_gym.evaluation.comparison import compare_suites
from agent_gym.evaluation.report import report_of
from agent_gym.evaluation.selection import Selection, suite_name
from agent_gym.store.episodes import EpisodeFilter, EpisodeRow
from agent_gym.store.run import RunFolder
from agent_gym.viewer.runs import Run

Json = dict[str, Any]

_NOTHING = "Nothing has been measured yet."
_TRAINING = ("before", "during", "after")
_MEASUREMENTS = 20
"""Times at which a training run measured that have a table."""
_ATTEMPTS = 64
"""Attempts at one task that are linked to."""


def report(run: Run, phase: str | None) -> Json:
    """Return the tables of what a run measured: one for each suite, or for each time that training measured.

    Args:
        run: The run.
        phase: Only what belongs to this phase.

    Raises:
        StoreError: It is gone, or its database cannot be read.
    """
    run.header()
    if not _has_episodes(run):
        return {"suites": [], "note": _NOTHING}
    suites, cut = run.cached(("evaluation",), partial(_reports, run))
    chosen = [suite for suite in suites if phase in (None, suite["phase"])]
    return {"suites": chosen, "cut": cut} if chosen else {"suites": [], "note": _NOTHING}


def _reports(run: Run) -> tuple[list[Json], str | None]:
    """Return the reports, and what is left out: resampling hundreds of measurements takes a minute."""
    folder = RunFolder.open(run.path)
    records = run.metrics.page().records
    times = list(dict.fromkeys((one["phase"], one["step"]) for one in records if one.get("phase") in _TRAINING))
    if len(times) <= _MEASUREMENTS:
        return [one.as_dict() for one in report_of(folder)], None
    kept = [times[0], *times[1 - _MEASUREMENTS :]]
    reports = [one for phase, step in kept for one in report_of(Selection(folder, phase, step))]
    cut = f"Of {len(times):,} measurements the first and the last {_MEASUREMENTS - 1} are shown."
    return [one.as_dict() for one in reports], cut


def _has_episodes(run: Run) -> bool:
    with run.store() as store:
        return store is not None


def comparison(run: Run, other: Run, *, suite: str | None, limit: int, after: int) -> Json:
    """Return how two runs differ on the tasks that both played, and a page of the tasks on which they do.

    Args:
        run: The first run.
        other: The second; differences are its mean less that of the first.
        suite: Which of the suites that both have; by default the first.
        limit: Tasks on the page, at most.
        after: Tasks on the pages before.

    Raises:
        ConfigError: The runs have no suite in common.
        UnknownIdError: They do not have this one in common, or one has no episodes.
        StoreError: One is gone, or its database cannot be read.
    """
    for one in (run, other):
        one.header()
        if not _has_episodes(one):
            raise UnknownIdError(f"{one.name} has measured nothing yet: there is nothing to compare.")
    version = f"{run.version()} {other.version()}"
    found = run.cached(("comparison", other.index), partial(_compared, run, other), version=version)
    names = [one["suite"] for one in found]
    if suite is not None and suite not in names:
        raise UnknownIdError.of("suite of both runs", suite, names)
    chosen = found[names.index(suite) if suite is not None else 0]
    tasks = chosen["differing"]
    page = tasks[after : after + limit]
    sides = [_attempts(one, [task["task_id"] for task in page], chosen["suite"]) for one in (run, other)]
    return chosen | {
        "suites": names,
        "differing": [_differing(task, a, b) for task, a, b in zip(page, *sides, strict=True)],
        "differing_count": len(tasks),
        "next": after + limit if len(tasks) > after + limit else None,
    }


def _compared(run: Run, other: Run) -> list[Json]:
    return [
        _named(one.as_dict(), run.name, other.name)
        for one in compare_suites(RunFolder.open(run.path), RunFolder.open(other.path))
    ]


def _named(found: Json, a: str, b: str) -> Json:
    # Names in the place of paths: a report goes to other machines.
    return found | {"a": found["a"] | {"run": a}, "b": found["b"] | {"run": b}}


def _attempts(run: Run, task_ids: Sequence[str], suite: str) -> list[list[EpisodeRow]]:
    """Return what a run measured last on each of some tasks."""
    with run.store() as store:
        if store is None:
            return [[] for _ in task_ids]
        return [_latest(store.episodes(EpisodeFilter(task_id=id), limit=_ATTEMPTS), suite) for id in task_ids]


def _latest(rows: Sequence[EpisodeRow], suite: str) -> list[EpisodeRow]:
    measured = [row for row in rows if row.phase != "train"]
    named = [row for row in measured if suite_name(row.suite, row.env_id, row.split) == suite] or measured
    if not named:
        return []
    last = max(named, key=lambda row: (row.step, row.number))
    same = [row for row in named if (row.step, row.phase) == (last.step, last.phase)]
    return sorted(same, key=lambda row: row.number)


def _differing(task: Json, a: Sequence[EpisodeRow], b: Sequence[EpisodeRow]) -> Json:
    goals = [row.goal for row in (*a, *b)]
    return {
        "task_id": task["task_id"],
        "task_type": task["task_type"],
        "goal": goals[0] if goals else "",
        "a": [row.id for row in a],
        "b": [row.id for row in b],
        "a_success": task["a"],
        "b_success": task["b"],
    }
