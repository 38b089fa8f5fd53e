"""Sentences that say what a suite's numbers cannot bear."""

import math

import numpy as np

from agent_gym.evaluation.distributions import normal_quantile
from agent_gym.evaluation.outcomes import Outcomes, Tasks
from agent_gym.evaluation.power import smallest_mean_difference
from agent_gym.evaluation.statistics import Estimate

TOO_SMALL = 0.1
"""A suite is called too small where it cannot show a difference of so much, on a scale from 0 to 1."""
USUAL_CLAIM = 0.05
MANY_FAILED = 0.05
MANY_RETRIED = 0.05
MANY_LIMITED = 0.2


def warnings_of(outcomes: Outcomes, tasks: Tasks, value: Estimate, *, level: float = 0.95) -> list[str]:
    """Return what is to be said about a suite's episodes.

    Args:
        outcomes: The episodes.
        tasks: What came of each task.
        value: The mean over them.
        level: Of its interval.
    """
    said = [
        _too_small(tasks, value, level),
        _failed(outcomes),
        _uneven(tasks),
        _share(outcomes, "retried", MANY_RETRIED, "were played once more because their worker had died or hung"),
        _share(outcomes, "limited", MANY_LIMITED, "were ended by a limit"),
        _partly_known(outcomes),
    ]
    return [sentence for sentence in said if sentence]


def smallest_difference(value: Estimate, *, level: float = 0.95) -> float | None:
    """Return which difference between two such runs would mostly be seen, were it unrelated what they solve.

    Args:
        value: The mean of one of them.
        level: Of its interval.
    """
    if value.low is None or value.high is None:
        return None
    error = (value.high - value.low) / (2 * normal_quantile((1 + level) / 2))
    return smallest_mean_difference(math.sqrt(2) * error, level=level)


def _too_small(tasks: Tasks, value: Estimate, level: float) -> str:
    smallest = smallest_difference(value, level=level)
    bounded = bool(((tasks.order >= 0) & (tasks.order <= 1)).all())
    if not bounded or value.tasks == 0 or (smallest is not None and smallest <= TOO_SMALL):
        return ""
    if smallest is None or smallest >= 1:
        return f"{_count(value.tasks, 'task')}: too few to say anything about a difference between two runs."
    # Wilson's interval is as wide as the usual one of z^2 tasks more.
    tasks_told = value.tasks + normal_quantile((1 + level) / 2) ** 2 * value.method.startswith("Wilson")
    needed = math.ceil(tasks_told * (smallest / USUAL_CLAIM) ** 2)
    return (
        f"{_count(value.tasks, 'task')}: too few to tell two runs apart that differ by less than about "
        f"{100 * smallest:.0f} points, unless they solve much the same tasks; {100 * USUAL_CLAIM:.0f} points take "
        f"about {_round(needed):,} tasks."
    )


def _failed(outcomes: Outcomes) -> str:
    failed = outcomes.flags("failed")
    count, all_ = int(failed.sum()), len(failed)
    if not all_ or count / all_ <= MANY_FAILED:
        return ""
    won = int((outcomes.flags("success") & ~failed).sum())
    return (
        f"{count:,} of {all_:,} episodes failed and are not counted: were they all wrong, success would be "
        f"{won / all_:.3f}, and were they all right, {(won + count) / all_:.3f}."
    )


def _uneven(tasks: Tasks) -> str:
    most = int(tasks.counts.max(initial=0))
    fewer = int((tasks.counts < most).sum())
    if not fewer:
        return ""
    if most == 1:
        return f"{_count(fewer, 'task')} of {len(tasks.counts):,} left out: no attempt at them counts."
    return (
        f"{_count(fewer, 'task')} of {len(tasks.counts):,} with fewer than {most} attempts that count: they weigh "
        f"less, and have no pass@{most}."
    )


def _share(outcomes: Outcomes, flag: str, most: float, what: str) -> str:
    flags = outcomes.flags(flag)
    share = float(flags.mean()) if len(flags) else 0.0
    return f"{int(flags.sum()):,} of {len(flags):,} episodes ({share:.0%}) {what}." if share > most else ""


def _partly_known(outcomes: Outcomes) -> str:
    for name in ("cost", "entropy"):
        known = ~np.isnan(outcomes.numbers(name))
        if 0 < int(known.sum()) < len(known):
            unknown = int((~known).sum())
            return f"The {name} of {unknown:,} of {len(known):,} episodes is unknown: its mean is over the others."
    return ""


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _round(number: int) -> int:
    """Return a number with two digits that count."""
    scale: int = 10 ** max(0, len(str(number)) - 2)
    return -(-number // scale) * scale
