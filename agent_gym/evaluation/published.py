"""What counts on a suite that a run played, and which published scores its own may stand beside.

The run's own record says it: suites of the same name may be others by now, or elsewhere. Published scores are for all
tasks of a suite, played as it says; beside anything else they would mislead.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.evaluation.outcomes import Metric, Outcomes
from agent_gym.evaluation.plans import ELSEWHERE, digest
from agent_gym.evaluation.resuming import suite_records
from agent_gym.evaluation.selection import Part
from agent_gym.evaluation.suites import Suite, find_suite
from agent_gym.secrecy import secrets_in
from agent_gym.store.run import RunFolder
from agent_gym.store.trajectories import TrajectoryStore

_ENOUGH: Final = 0.95
"""Share of a suite's tasks of which an episode must count; the report warns of the failed ones below that, too."""

_LONG: Final = 80
"""Letters of a setting beyond which it is not told: a prompt, say."""


@dataclass(frozen=True, slots=True)
class Said:
    """What is said of a suite."""

    metric: Metric = "success"
    """What the headline is the mean of."""
    references: list[dict[str, Any]] = field(default_factory=list)
    """What was published, where it may stand beside what was played."""
    note: str = ""
    """Why nothing published stands there, or how else the suite was played than it says; empty as a rule."""


def said_of(run: RunFolder, part: Part, played: Outcomes) -> Said:
    """Return what is said of a suite.

    Args:
        run: The run that played it.
        part: Its episodes' name.
        played: Its episodes.

    Raises:
        StoreError: The run's record of its suites cannot be read.
    """
    for record in suite_records(run.path):
        if record["name"] and record["name"] == part.suite:
            return _of_record(record, played)
    suite = _same_tasks(run, part)
    if suite is None:
        return Said()
    why = "the run is imported" if "imported" in run.config else "the run has no record of how it was played"
    return Said(suite.metric, [], f"no published scores stand here: {why}." if suite.references else "")


def played_otherwise(first: RunFolder, second: RunFolder, suites: tuple[str, str]) -> list[str]:
    """Return how two runs were told to play otherwise than each other, as "max_turns is 20 in A and 12 in B".

    Args:
        first: The first run.
        second: The second.
        suites: What each played.

    Returns:
        A phrase a setting, without the values where one of them may be a secret or is long; none where a run has no
        record of how it played, as imported ones do not.
    """
    records = _record(first, suites[0]), _record(second, suites[1])
    if records[0] is None or records[1] is None:
        return []
    a, b = ({**one["env"]["options"], **one["rollout"], "temperature": one["temperature"]} for one in records if one)
    names = [name for name in {**a, **b} if not name.startswith(ELSEWHERE) and a.get(name) != b.get(name)]
    return [_difference(name, a.get(name), b.get(name)) for name in names]


def _record(run: RunFolder, suite: str) -> dict[str, Any] | None:
    """Return what a run has written down of a suite, or of the split that it played without one."""
    records = suite_records(run.path)
    named = [record for record in records if record["name"] == suite]
    unnamed = [record for record in records if not record["name"]]
    return next(iter(named or unnamed), None)


def _difference(name: str, first: Any, second: Any) -> str:
    told = _told(first), _told(second)
    if any(secrets_in({name: [first, second]}, "")) or max(map(len, told)) > _LONG:
        return f"{name} is not the same in A and B"
    return f"{name} is {told[0]} in A and {told[1]} in B"


def _told(value: Any) -> str:
    return "not said" if value is None or value == "" else str(value)


def _of_record(record: dict[str, Any], played: Outcomes) -> Said:
    changed = record.get("changed", [])
    lacking = _lacking(len(record["tasks"]), played)
    reasons = [f"played with {', '.join(changed)}, which the suite does not say"] if changed else []
    reasons += [lacking] if lacking else []
    if not reasons:
        return Said(record["metric"], record["references"])
    told = "; ".join(reasons)
    if record["references"]:
        return Said(record["metric"], [], f"no published scores stand here: {told}.")
    return Said(record["metric"], [], f"{told}: it compares only with runs that were played alike." if changed else "")


def _lacking(tasks: int, played: Outcomes) -> str:
    """Return how many of a suite's tasks were not played, or failed; nothing where those do not matter."""
    begun = len(played.task_ids)
    if begun < tasks:
        return f"only {begun:,} of {tasks:,} tasks were played"
    counting = int((played.tasks("success").counts > 0).sum())
    return f"only {counting:,} of {tasks:,} tasks have an episode that counts" if counting < _ENOUGH * tasks else ""


def _same_tasks(run: RunFolder, part: Part) -> Suite | None:
    """Return the suite of that name where what was played are its tasks, all of them; a name alone says nothing."""
    try:
        suite = find_suite(part.suite)
    except (ConfigError, UnknownIdError):
        return None
    return suite if suite.ids is not None and digest(_in_order(run, part), []).ids == suite.ids else None


def _in_order(run: RunFolder, part: Part) -> list[str]:
    """Return the tasks in the suite's order, which the ends of their groups' ids tell; episodes end in any order."""
    tasks: dict[str, str] = {}
    with TrajectoryStore.reading(run.path / "trajectories.sqlite") as store:
        for row in store.outcomes(part.phase, part.suite):
            tasks.setdefault(row.task_id, row.group_id.rpartition("/")[2])
    if not all(place.isdigit() for place in tasks.values()):
        return list(tasks)
    return sorted(tasks, key=lambda task: int(tasks[task]))
