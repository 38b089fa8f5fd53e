"""Is one run really better than another? Task by task where they share tasks, with an interval and a plain sentence."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.evaluation.bootstrap import bootstrap_interval
from agent_gym.evaluation.distributions import normal_quantile
from agent_gym.evaluation.outcomes import Booleans, Floats, Metric, Outcomes, Tasks
from agent_gym.evaluation.pairing import (
    holm,
    mcnemar,
    paired_interval,
    permutation_test,
    sign_flip_interval,
    sign_flip_test,
    unpaired_interval,
)
from agent_gym.evaluation.power import smallest_mean_difference
from agent_gym.evaluation.published import played_otherwise, said_of
from agent_gym.evaluation.selection import Part, Selection, chosen
from agent_gym.evaluation.statistics import FEW_TASKS, MANY_TASKS, standard_error, student_interval
from agent_gym.evaluation.summing import estimate_of
from agent_gym.evaluation.support import Support, support
from agent_gym.evaluation.verdict import Comparison, Difference, Differing, Side
from agent_gym.store.run import RunFolder

SEED = 0
"""Resampling begins from it each time, so that the same episodes always give the same comparison."""


def compare_runs(
    run_a: RunFolder | Selection,
    run_b: RunFolder | Selection,
    suite: str | None = None,
    *,
    metric: Metric | None = None,
    level: float = 0.95,
) -> Comparison:
    """Compare two runs on one suite.

    Args:
        run_a: The first run, or some of its episodes.
        run_b: The second.
        suite: Which suite; needed only where they have several in common.
        metric: What is measured; by default what the suite says, else success.
        level: Of intervals and tests.

    Raises:
        ConfigError: They have several suites in common, or none.
        UnknownIdError: One does not have the suite.
        StoreError: The episodes cannot be read.
    """
    found = compare_suites(run_a, run_b, suite, metric=metric, level=level)
    if len(found) > 1:
        names = ", ".join(one.suite for one in found)
        raise ConfigError(f"The two runs have several suites in common: choose one of {names}.")
    return found[0]


def compare_suites(
    run_a: RunFolder | Selection,
    run_b: RunFolder | Selection,
    suite: str | None = None,
    *,
    metric: Metric | None = None,
    level: float = 0.95,
) -> list[Comparison]:
    """Compare two runs on every suite that both have; p-values are adjusted for how many those are.

    Args:
        run_a: The first run, or some of its episodes.
        run_b: The second.
        suite: Only this suite.
        metric: What is measured; by default what each suite says, else success.
        level: Of intervals and tests.

    Raises:
        ConfigError: They have no suite in common.
        UnknownIdError: One does not have the suite.
        StoreError: The episodes cannot be read.
    """
    first, second = (run if isinstance(run, Selection) else Selection(run) for run in (run_a, run_b))
    both = [chosen(run) for run in (first, second)]
    parts: dict[str, Part] = {part.suite: part for part in both[0]}
    found_a, found_b = ({part.suite: one for part, one in found.items()} for found in both)
    compared = []
    for name_a, name_b in _common(found_a, found_b, suite):
        measure = metric or said_of(first.run, parts[name_a], found_a[name_a]).metric
        names = (str(first), str(second))
        title = name_a if name_a == name_b else f"{name_a} and {name_b}"
        one = compare(found_a[name_a], found_b[name_b], names, suite=title, metric=measure, level=level)
        otherwise = played_otherwise(first.run, second.run, (name_a, name_b))
        compared.append(replace(one, otherwise=otherwise))
    if suite is None and compared[0].suite in found_a:
        alone = [*(f"{name} (A)" for name in found_a if name not in found_b)]
        alone += [f"{name} (B)" for name in found_b if name not in found_a]
        compared[0] = replace(compared[0], suites_alone=alone)
    return adjusted(compared)


def _common(found_a: dict[str, Outcomes], found_b: dict[str, Outcomes], suite: str | None) -> list[tuple[str, str]]:
    """Return the names of what is compared with what."""
    if suite is not None:
        for found in (found_a, found_b):
            if suite not in found:
                raise UnknownIdError.of("suite of a run", suite, found)
        return [(suite, suite)]
    both = [name for name in found_a if name in found_b]
    if both:
        return [(name, name) for name in both]
    if len(found_a) == len(found_b) == 1:
        # The same tasks may have been played as a suite once, and as a split the other time.
        ((name_a, first),), ((name_b, second),) = found_a.items(), found_b.items()
        if first.env_ids & second.env_ids and not set(first.task_ids).isdisjoint(second.task_ids):
            return [(name_a, name_b)]
    raise ConfigError(
        f"The two runs have no suite in common: the first has {', '.join(found_a)}, the second {', '.join(found_b)}."
    )


def adjusted(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return comparisons with their p-values adjusted for how many there are, where there are several."""
    places = [place for place, one in enumerate(comparisons) if one.overall.p_value is not None]
    result = list(comparisons)
    if len(places) > 1:
        values = holm([comparisons[place].overall.p_value or 0.0 for place in places])
        for place, value in zip(places, values, strict=True):
            overall = replace(comparisons[place].overall, adjusted=value)
            result[place] = replace(comparisons[place], overall=overall)
    return result


def compare(
    first: Outcomes,
    second: Outcomes,
    names: tuple[str, str] = ("A", "B"),
    *,
    suite: str = "",
    metric: Metric = "success",
    level: float = 0.95,
) -> Comparison:
    """Compare the episodes of two runs.

    Args:
        first: Those of the first run.
        second: Those of the second.
        names: What the runs are called.
        suite: What the tasks are called.
        metric: What is measured.
        level: Of intervals and tests.
    """
    rng = np.random.default_rng(SEED)
    tasks = first.tasks(metric), second.tasks(metric)
    places = _shared(first, second)
    played = (tasks[0].counts[places[0]] > 0) & (tasks[1].counts[places[1]] > 0)
    pairs = places[:, played]
    overall = _paired(tasks, pairs, rng, level, metric) if pairs.shape[1] else _unpaired(tasks, rng, level, metric)
    differences = tasks[1].means[pairs[1]] - tasks[0].means[pairs[0]]
    error = standard_error(differences)
    smallest = smallest_mean_difference(error, level=level) if error > 0 else None
    sides = [
        Side(
            name,
            len(one.task_ids),
            len(one),
            int(one.flags("failed").sum()),
            estimate_of(values, rng, level=level, unit=metric != "reward"),
        )
        for name, one, values in zip(names, (first, second), tasks, strict=True)
    ]
    return Comparison(
        suite=suite,
        metric=metric,
        level=level,
        a=sides[0],
        b=sides[1],
        overall=overall,
        only_a=len(first.task_ids) - places.shape[1],
        only_b=len(second.task_ids) - places.shape[1],
        failed=places.shape[1] - pairs.shape[1],
        types=_by_type(tasks, pairs, rng, level, metric),
        smallest=smallest,
        tasks_needed=_needed(overall, smallest),
        counting_failures=_counting_failures(first, second, places),
        support=_support(first, second, places),
        differing=_differing(first, tasks, pairs),
        unit=100.0 if all(bool(((one.order >= 0) & (one.order <= 1)).all()) for one in tasks) else 1.0,
    )


def _shared(first: Outcomes, second: Outcomes) -> Any:
    """Return the places of the tasks that both have, (2, tasks)."""
    places = {task: place for place, task in enumerate(second.task_ids)}
    both = [(place, places[task]) for place, task in enumerate(first.task_ids) if task in places]
    return np.array(both, dtype=np.int64).reshape(-1, 2).T


def _paired(
    tasks: tuple[Tasks, Tasks], pairs: Any, rng: np.random.Generator, level: float, metric: Metric
) -> Difference:
    means = tasks[0].means[pairs[0]], tasks[1].means[pairs[1]]
    differences = means[1] - means[0]
    single = all(bool((one.counts[place] == 1).all()) for one, place in zip(tasks, pairs, strict=True))
    count = pairs.shape[1]
    low: float | None
    high: float | None
    if single and metric == "success":
        only_a, only_b = int((differences < 0).sum()), int((differences > 0).sum())
        p_value, test = mcnemar(only_a, only_b), "McNemar's exact test"
        (low, high), method = paired_interval(only_a, only_b, count, level=level), "score interval (Tango)"
    else:
        p_value, test = sign_flip_test(differences, rng=rng), "permutation"
        low, high, method = _mean_interval(differences, rng, level, unit=metric != "reward" and _bounded(*means))
    a, b = float(means[0].mean()), float(means[1].mean())
    return Difference(count, a, b, float(differences.mean()), low, high, p_value, test, method)


def _mean_interval(
    differences: Floats, rng: np.random.Generator, level: float, *, unit: bool
) -> tuple[float | None, float | None, str]:
    if len(differences) >= MANY_TASKS or float(np.ptp(differences)) > 1e-12:
        low, high, method = _varied_interval(differences, rng, level)
        mean = float(differences.mean())
        if unit:
            # No narrower than where all differ alike: a kind of task on which it is the other way may have been missed.
            square = normal_quantile((1 + level) / 2) ** 2
            nearer = mean * max(0.0, len(differences) - square) / (len(differences) + square)
            low, high = max(-1.0, min(low, nearer)), min(1.0, max(high, nearer))
        return low, high, method
    if unit:
        # Resampling would give an interval of no width; on each task the runs may still differ another time.
        gained = float(differences[0]) * len(differences)
        low, high = paired_interval(max(-gained, 0), max(gained, 0), len(differences), level=level)
        if len(differences) < FEW_TASKS and sign_flip_interval(differences, level=level) is None:
            low, high = min(low, 0.0), max(high, 0.0)
        return low, high, "score interval (Tango), as the runs differ alike on all tasks"
    return None, None, "no interval: all tasks differ alike"


def _varied_interval(differences: Floats, rng: np.random.Generator, level: float) -> tuple[float, float, str]:
    if len(differences) >= MANY_TASKS:
        return *student_interval(differences, level=level), "Student over tasks"
    if len(differences) >= FEW_TASKS:
        return *bootstrap_interval(differences, rng=rng, level=level), "paired bootstrap over tasks (BCa)"
    if ends := sign_flip_interval(differences, level=level):
        return *ends, "what the permutation test does not refuse"
    # The test refuses nothing, and so 0 neither.
    low, high = student_interval(differences, level=level)
    return min(low, 0.0), max(high, 0.0), "Student over tasks, with 0, which so few tasks cannot refuse"


def _unpaired(tasks: tuple[Tasks, Tasks], rng: np.random.Generator, level: float, metric: Metric) -> Difference:
    used = [one.counts > 0 for one in tasks]
    means = [one.means[chosen] for one, chosen in zip(tasks, used, strict=True)]
    if not len(means[0]) or not len(means[1]):
        return Difference(0, None, None, None, None, None, None, "", "undefined: a run has no episode that counts")
    p_value = permutation_test(means[0], means[1], rng=rng)
    a, b = float(means[0].mean()), float(means[1].mean())
    low: float | None
    high: float | None
    if metric == "success":
        # Attempts at one task are not independent of each other: each task counts once.
        rates = [(float(mean.sum()), len(mean)) for mean in means]
        (low, high), method = unpaired_interval(rates[0], rates[1], level=level), "score interval (Newcombe)"
    else:
        error = math.hypot(standard_error(means[0]), standard_error(means[1]))
        half = normal_quantile((1 + level) / 2) * error
        low, high, method = b - a - half, b - a + half, "normal interval"
        if math.isnan(half):
            low, high, method = None, None, "no interval: a run has one task only"
    return Difference(0, a, b, b - a, low, high, p_value, "permutation, unpaired", method)


def _by_type(
    tasks: tuple[Tasks, Tasks], pairs: Any, rng: np.random.Generator, level: float, metric: Metric
) -> dict[str, Difference]:
    types = np.array(tasks[0].types, dtype=object)[pairs[0]]
    names = sorted(set(types.tolist()))
    if len(names) < 2 and names in ([], [""]):
        return {}
    found = {name: _paired(tasks, pairs[:, types == name], rng, level, metric) for name in names}
    values = holm([one.p_value or 0.0 for one in found.values()])
    return {name: replace(one, adjusted=value) for (name, one), value in zip(found.items(), values, strict=True)}


def _needed(overall: Difference, smallest: float | None) -> int | None:
    if smallest is None or not overall.difference:
        return None
    return int(np.ceil(overall.pairs * (smallest / overall.difference) ** 2))


def _counting_failures(first: Outcomes, second: Outcomes, places: Any) -> float | None:
    if not places.shape[1]:
        return None
    means = [
        one.tasks("success", failures_as=0.0).means[place] for one, place in zip((first, second), places, strict=True)
    ]
    return float((means[1] - means[0]).mean())


def _support(first: Outcomes, second: Outcomes, places: Any) -> Support | None:
    a, b = first.tasks("success"), second.tasks("success")
    counts = a.counts[places[0]]
    fair: Booleans = (counts == b.counts[places[1]]) & (counts > 1)
    if not bool(fair.any()):
        return None
    found = support((a.sums[places[0]][fair] > 0).tolist(), (b.sums[places[1]][fair] > 0).tolist())
    return replace(found, left_out=int((~fair).sum()))


def _differing(first: Outcomes, tasks: tuple[Tasks, Tasks], pairs: Any) -> list[Differing]:
    """Return the tasks on which the runs differ, the largest losses and gains first."""
    a, b = tasks[0].means[pairs[0]], tasks[1].means[pairs[1]]
    names = first.task_ids
    order = [int(place) for place in np.argsort(-np.abs(b - a), kind="stable") if a[place] != b[place]]
    return [
        Differing(names[pairs[0][place]], tasks[0].types[pairs[0][place]], float(a[place]), float(b[place]))
        for place in order
    ]


def _bounded(*values: Floats) -> bool:
    return all(bool(((one >= 0) & (one <= 1)).all()) for one in values)
