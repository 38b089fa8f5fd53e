"""Sums over the tasks of a suite that several pages show: rates by type, k attempts, what an episode takes."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

from agent_gym.evaluation.answers import entropy_of
from agent_gym.evaluation.outcomes import Booleans, Integers, Outcomes, Tasks
from agent_gym.evaluation.passes import best_of_k, majority_at_k, pass_at_k, pass_hat_k
from agent_gym.evaluation.statistics import Estimate, estimate


@dataclass(frozen=True, slots=True)
class TypeRow:
    """The tasks of one type."""

    type: str
    """Empty where the type is unknown."""
    tasks: int
    attempts: int
    """Those that did not fail."""
    failed: int
    value: Estimate
    """Mean of the metric."""

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers by name; those of the estimate stand beside the others."""
        own = {"type": self.type, "tasks": self.tasks, "attempts": self.attempts, "failed": self.failed}
        return own | self.value.as_rate()


@dataclass(frozen=True, slots=True)
class Use:
    """What an episode takes of something; None is unknown."""

    mean: float | None
    median: float | None
    total: float | None
    """Over all episodes that say it, failed ones included; mean and median leave those out."""
    known: int
    """Episodes that did not fail and say it."""

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers by name."""
        return asdict(self)


def estimate_of(
    tasks: Tasks, rng: np.random.Generator, *, level: float, unit: bool = True, chosen: Booleans | None = None
) -> Estimate:
    """Return the mean over all attempts that count.

    Args:
        tasks: What came of each task.
        rng: Where chance comes from.
        level: Of the interval.
        unit: Values lie within [0, 1] by their meaning.
        chosen: Only these tasks, (tasks,).
    """
    used = tasks.counts > 0 if chosen is None else (tasks.counts > 0) & chosen
    all_ = len(tasks.counts) if chosen is None else int(chosen.sum())
    left_out = all_ - int(used.sum())
    return estimate(tasks.sums[used], tasks.counts[used], rng=rng, level=level, unit=unit, left_out=left_out)


def by_type(
    tasks: Tasks, failed: Integers, rng: np.random.Generator, *, level: float, unit: bool = True
) -> list[TypeRow]:
    """Return one row for each type of task, by name; none where no task has a type.

    Args:
        tasks: What came of each task.
        failed: Failed episodes of each task, (tasks,).
        rng: Where chance comes from.
        level: Of the intervals.
        unit: Values lie within [0, 1] by their meaning.
    """
    names = sorted(set(tasks.types))
    if names in ([], [""]):
        return []
    rows = []
    for name in names:
        chosen = tasks.of_type(name)
        value = estimate_of(tasks, rng, level=level, unit=unit, chosen=chosen)
        rows.append(TypeRow(name, int(chosen.sum()), int(tasks.counts[chosen].sum()), int(failed[chosen].sum()), value))
    return rows


def mean_over_types(rows: list[TypeRow]) -> Estimate:
    """Return the mean of the types' means, each as heavy as the others however many tasks it has.

    The ends lie as far off as those of the types do together: sqrt(sum of squares) / number of types.

    Source: Zou and Donner, "Construction of confidence limits about effect measures", Statistics in Medicine 27, 2008.
    """
    known = [row.value for row in rows if row.value.value is not None]
    if not known or len(known) < len(rows):
        return Estimate(None, method="undefined: a type has no attempt that counts")
    values = np.array([value.value for value in known], dtype=np.float64)
    mean, tasks = float(values.mean()), sum(value.tasks for value in known)
    if any(value.low is None or value.high is None for value in known):
        return Estimate(mean, method="no interval: a type has none", tasks=tasks)
    lows = np.array([value.low for value in known], dtype=np.float64)
    highs = np.array([value.high for value in known], dtype=np.float64)
    down, up = (float(np.sqrt((gaps**2).sum())) / len(known) for gaps in (values - lows, highs - values))
    return Estimate(mean, mean - down, mean + up, "from the types' intervals (MOVER)", tasks)


def attempts_to_show(most: int, wanted: list[int] | None = None) -> list[int]:
    """Return for which k numbers are shown: those wanted, or 1, 2, 4 ... and the most attempts that a task has."""
    if wanted:
        return sorted(set(wanted))
    return sorted({2**power for power in range(most.bit_length())} | {most}) if most else []


def over_k(
    outcomes: Outcomes, ks: list[int], rng: np.random.Generator, *, level: float
) -> dict[str, dict[int, Estimate]]:
    """Return pass@k, pass^k, maj@k and best-of-k, each a mean over the tasks that have k attempts at least.

    Failed attempts do not count. A task with fewer than k others says nothing about k attempts; `left_out` counts
    those, and with all of them left out the estimate is undefined. maj@k is there only where episodes have answers,
    best-of-k only where scores are more than right and wrong.
    """
    tasks = outcomes.tasks("success")
    found = {
        "pass_at_k": {k: _mean(_passes(tasks, pass_at_k, k), rng, level) for k in ks},
        "pass_hat_k": {k: _mean(_passes(tasks, pass_hat_k, k), rng, level) for k in ks},
        "maj_at_k": {},
        "best_of_k": {},
    }
    if bool(outcomes.flags("answered").any()):
        found["maj_at_k"] = {k: _mean(_majorities(outcomes, k, rng), rng, level) for k in ks}
    scores = outcomes.tasks("score")
    if not bool(np.isin(scores.order, (0, 1)).all()):
        found["best_of_k"] = {k: _mean((best_of_k(values, k) for values in scores.scores()), rng, level) for k in ks}
    return found


def answer_entropy(outcomes: Outcomes, rng: np.random.Generator, *, level: float) -> Estimate:
    """Return the mean entropy of the answers to a task in nats, over the tasks with two attempts at least.

    Answers that are one vote are one answer, and no answer is an answer of its own, see
    `agent_gym.evaluation.answers.answer_entropy`. Failed attempts do not count.
    """
    if not bool(outcomes.flags("answered").any()):
        return Estimate(None, method="undefined: no episode has an answer")
    masses = ([count for count, _ in answers] + [silent] * bool(silent) for answers, silent in outcomes.votes())
    known = [entropy_of(each) for each in masses if sum(each) > 1]
    left_out = len(outcomes.task_ids) - len(known)
    if known and max(known) == min(known):
        # Answers that never varied are no successes, whose interval would be one for 0.
        return Estimate(known[0], None, None, "no interval: all tasks are alike", len(known), left_out)
    return estimate(np.array(known, dtype=np.float64), rng=rng, level=level, unit=False, left_out=left_out)


def _passes(tasks: Tasks, function: Callable[[int, int, int], float | None], k: int) -> Iterator[float | None]:
    at = cache(lambda attempts, successes: function(attempts, successes, k))
    return (at(attempts, round(won)) for attempts, won in zip(tasks.counts.tolist(), tasks.sums.tolist(), strict=True))


def _majorities(outcomes: Outcomes, k: int, rng: np.random.Generator) -> Iterator[float | None]:
    # Which answers they are does not matter, and few patterns come up often.
    known: dict[Any, float | None] = {}
    samples = max(100, 200_000 // len(outcomes.task_ids))
    for answers, silent in outcomes.votes():
        pattern = (tuple(sorted(answers)), silent)
        if pattern not in known:
            known[pattern] = majority_at_k(pattern[0], k, silent=silent, rng=rng, samples=samples)
        yield known[pattern]


def _mean(values: Iterator[float | None], rng: np.random.Generator, level: float) -> Estimate:
    found = list(values)
    known = [value for value in found if value is not None]
    # One attempt a task and the like: rounding must not make a share of what is 0 or 1.
    sums = np.array(known, dtype=np.float64)
    return estimate(sums, rng=rng, level=level, left_out=len(found) - len(known))


def use_of(outcomes: Outcomes, name: str) -> Use:
    """Return what an episode takes: "turns", "generated_tokens", "tool_calls", "seconds", "cost" and so on."""
    values = outcomes.numbers(name)
    known = values[~outcomes.flags("failed") & ~np.isnan(values)]
    said = values[~np.isnan(values)]
    return Use(
        mean=float(known.mean()) if len(known) else None,
        median=float(np.median(known)) if len(known) else None,
        total=float(said.sum()) if len(said) else None,
        known=len(known),
    )
