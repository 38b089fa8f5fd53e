"""What a run's stored episodes add up to: one report a suite, computed without the model and without the environment.

Failed episodes are reported apart: they are no wrong answers. What cannot be known is None.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.evaluation.outcomes import Integers, Metric, Outcomes
from agent_gym.evaluation.selection import Part, Selection, chosen, measured
from agent_gym.evaluation.statistics import Estimate
from agent_gym.evaluation.suites import Suite, find_suite
from agent_gym.evaluation.summing import (
    TypeRow,
    Use,
    attempts_to_show,
    by_type,
    estimate_of,
    mean_over_types,
    over_k,
    use_of,
)
from agent_gym.evaluation.warning import warnings_of
from agent_gym.store.run import RunFolder

SEED = 0
"""Resampling begins from it each time, so that the same episodes always give the same report."""


@dataclass(frozen=True, slots=True)
class Report:
    """The numbers of one suite."""

    suite: str
    phase: str
    step: int
    metric: Metric
    """What `value` is the mean of."""
    tasks: int
    attempts: int
    """Episodes, failed ones included."""
    failed: int
    successes: int
    value: Estimate
    """Mean of the metric over the episodes that did not fail."""
    success: Estimate
    counting_failures: Estimate
    """Success, were failed episodes wrong ones."""
    score: Estimate
    reward: Estimate
    types: list[TypeRow]
    types_alike: Estimate
    """Mean of the metric with each type as heavy as the others; `value` weighs them by their episodes."""
    over_k: dict[str, dict[int, Estimate]]
    """pass_at_k, pass_hat_k, maj_at_k and best_of_k, by k."""
    use: dict[str, Use]
    """Turns, generated tokens, prompt_tokens, tool_calls, seconds and cost in dollars of an episode."""
    invalid_actions: float | None
    """Share of the turns whose action was not possible."""
    entropy: float | None
    """Mean over episodes, in nats."""
    limited: int
    """Episodes that a limit ended."""
    retried: int
    """Episodes that were played once more, because their worker had died or hung."""
    references: list[dict[str, Any]] = field(default_factory=list)
    """What was published for the suite."""
    warnings: list[str] = field(default_factory=list)
    """Sentences on what these numbers cannot bear."""

    def as_dict(self) -> dict[str, Any]:
        """Return everything in plain values, for JSON."""
        inner = self.value.as_dict()
        played = self.attempts - self.failed
        return {
            "suite": self.suite,
            "phase": self.phase,
            "step": self.step,
            "metric": self.metric,
            "references": self.references,
            "overall": {
                "n": played,
                "tasks": self.tasks,
                "attempts": self.attempts,
                "failed": self.failed,
                "successes": self.successes,
                "rate": inner["value"],
                "low": inner["low"],
                "high": inner["high"],
                "method": inner["method"],
                "success": self.success.as_dict(),
                "counting_failures": self.counting_failures.as_dict(),
                "score": self.score.as_dict(),
                "reward": self.reward.as_dict(),
                "types_alike": self.types_alike.as_dict(),
                "invalid_actions": self.invalid_actions,
                "entropy": self.entropy,
                "limited": self.limited,
                "retried": self.retried,
            },
            "by_type": [row.as_dict() for row in self.types],
            **{name: {str(k): one.as_dict() for k, one in found.items()} for name, found in self.over_k.items()},
            "per_episode": {name: one.as_dict() for name, one in self.use.items()},
            "warnings": self.warnings,
        }


def report_of(
    run: RunFolder | Selection, *, metric: Metric | None = None, ks: list[int] | None = None, level: float = 0.95
) -> list[Report]:
    """Return a report of each suite that a run played, or of what it measured before, in and after training.

    Args:
        run: A run, or some of its episodes.
        metric: What is measured; by default what the suite says, else success.
        ks: For which numbers of attempts; by default what the run was told, else 1, 2, 4 ... up to what there is.
        level: Of the intervals.

    Raises:
        StoreError: The episodes cannot be read, or those selected do not exist.
    """
    found, folder = (chosen(run), run.run) if isinstance(run, Selection) else (measured(run), run)
    config = folder.config
    wanted = ks or config.get("k") or None
    known = suites_of(config)
    reports = [
        report(one, part, suite=known.get(part.suite) or _packaged(part.suite), metric=metric, ks=wanted, level=level)
        for part, one in found.items()
    ]
    changed = _changed(config)
    return [replace(one, **_without_references(one, changed)) for one in reports] if changed else reports


def _changed(config: dict[str, Any]) -> list[str]:
    """Return what a run set otherwise than its suites say."""
    if not config.get("suites"):
        return []
    options = (config.get("env") or {}).get("options") or {}
    split = [f"split={config['split']}"] if config.get("split") else []
    return [f"{name}={value}" for name, value in options.items()] + split


def _without_references(report: Report, changed: list[str]) -> dict[str, Any]:
    """Return the fields of a report of a suite that was not played as it says."""
    note = f"played with {', '.join(changed)}, which the suite does not say: no other run of it compares."
    return {"references": [], "warnings": [note, *report.warnings]}


def report(
    found: Outcomes,
    part: Part,
    *,
    suite: Suite | None = None,
    metric: Metric | None = None,
    ks: list[int] | None = None,
    level: float = 0.95,
) -> Report:
    """Return what the episodes of one suite add up to.

    Args:
        found: Its episodes.
        part: What they are called.
        suite: What is said of it: its metric, and what was published.
        metric: What is measured, whatever the suite says.
        ks: For which numbers of attempts.
        level: Of the intervals.
    """
    rng = np.random.default_rng(SEED)
    measure: Metric = metric or (suite.metric if suite is not None else "success")
    failed = found.flags("failed")
    tasks = found.tasks(measure)
    unit = measure != "reward"
    types = by_type(tasks, _failures(found), rng, level=level, unit=unit)
    value = estimate_of(tasks, rng, level=level, unit=unit)
    success = found.tasks("success")
    turns = found.numbers("turns")[~failed].sum()
    # A player without a model generates nothing, and an entropy of 0 would be untrue of it.
    entropies = found.numbers("entropy")[~failed & (found.numbers("generated_tokens") > 0)]
    references = [] if suite is None else [reference.model_dump() for reference in suite.references]
    return Report(
        suite=part.suite,
        phase=part.phase,
        step=part.step,
        metric=measure,
        tasks=len(found.task_ids),
        attempts=len(found),
        failed=int(failed.sum()),
        successes=int(success.sums.sum()),
        value=value,
        success=value if measure == "success" else estimate_of(success, rng, level=level),
        counting_failures=estimate_of(found.tasks("success", failures_as=0.0), rng, level=level),
        score=estimate_of(found.tasks("score"), rng, level=level),
        reward=estimate_of(found.tasks("reward"), rng, level=level, unit=False),
        types=types,
        types_alike=mean_over_types(types) if types else Estimate(None, method="undefined: no types are known"),
        over_k=over_k(found, attempts_to_show(int(success.counts.max(initial=0)), ks), rng, level=level),
        use={name: use_of(found, column) for name, column in USES.items()},
        invalid_actions=float(found.numbers("invalid_actions")[~failed].sum() / turns) if turns else None,
        entropy=float(np.nanmean(entropies)) if not bool(np.isnan(entropies).all()) else None,
        limited=int(found.flags("limited").sum()),
        retried=int(found.flags("retried").sum()),
        references=references,
        warnings=warnings_of(found, tasks, value, level=level),
    )


USES = {
    "turns": "turns",
    "tokens": "generated_tokens",
    "prompt_tokens": "prompt_tokens",
    "tool_calls": "tool_calls",
    "seconds": "seconds",
    "cost": "cost",
}
"""What is told of an episode, and the column that says it."""


def suite_metric(config: dict[str, Any], name: str) -> Metric:
    """Return what a suite's headline is the mean of: what the suite says, else success."""
    suite = suites_of(config).get(name) or _packaged(name)
    return "success" if suite is None else suite.metric


def suites_of(config: dict[str, Any]) -> dict[str, Suite]:
    """Return what a run's configuration says of its suites, by name; files that are gone are passed over."""
    found = {}
    for name in config.get("suites") or []:
        try:
            suite = find_suite(name)
        except (ConfigError, UnknownIdError):
            continue
        found[suite.name] = suite
    return found


def _packaged(name: str) -> Suite | None:
    try:
        return find_suite(name)
    except (ConfigError, UnknownIdError):
        return None


def _failures(found: Outcomes) -> Integers:
    """Return the failed episodes of each task."""
    return found.tasks("success", failures_as=-1.0).counts - found.tasks("success").counts
