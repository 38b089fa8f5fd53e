"""What a run's stored episodes add up to: one report a suite, computed without the model and without the environment.

Failed episodes are reported apart: they are no wrong answers. What cannot be known is None.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agent_gym.evaluation.outcomes import Integers, Metric, Outcomes
from agent_gym.evaluation.published import Said, said_of
from agent_gym.evaluation.selection import Part, Selection, chosen, measured
from agent_gym.evaluation.statistics import Estimate
from agent_gym.evaluation.summing import (
    TypeRow,
    Use,
    answer_entropy,
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
    answer_entropy: Estimate
    """Mean over tasks of the entropy of the answers to a task, in nats."""
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
                "answer_entropy": self.answer_entropy.as_dict(),
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
    # Runs of earlier versions may have been asked for pass@0.
    wanted = ks or [k for k in folder.config.get("k") or [] if k >= 1] or None
    return [
        report(one, part, said=said_of(folder, part, one), metric=metric, ks=wanted, level=level)
        for part, one in found.items()
    ]


def report(
    found: Outcomes,
    part: Part,
    *,
    said: Said | None = None,
    metric: Metric | None = None,
    ks: list[int] | None = None,
    level: float = 0.95,
) -> Report:
    """Return what the episodes of one suite add up to.

    Args:
        found: Its episodes.
        part: What they are called.
        said: What is said of it: its metric, and what was published.
        metric: What is measured, whatever the suite says.
        ks: For which numbers of attempts.
        level: Of the intervals.
    """
    rng = np.random.default_rng(SEED)
    said = said or Said()
    measure: Metric = metric or said.metric
    failed = found.flags("failed")
    tasks = found.tasks(measure)
    unit = measure != "reward"
    types = by_type(tasks, _failures(found), rng, level=level, unit=unit)
    value = estimate_of(tasks, rng, level=level, unit=unit)
    success = found.tasks("success")
    turns = found.numbers("turns")[~failed].sum()
    # A player without a model generates nothing, and an entropy of 0 would be untrue of it.
    entropies = found.numbers("entropy")[~failed & (found.numbers("generated_tokens") > 0)]
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
        answer_entropy=answer_entropy(found, rng, level=level),
        use={name: use_of(found, column) for name, column in USES.items()},
        invalid_actions=float(found.numbers("invalid_actions")[~failed].sum() / turns) if turns else None,
        entropy=float(np.nanmean(entropies)) if not bool(np.isnan(entropies).all()) else None,
        limited=int(found.flags("limited").sum()),
        retried=int(found.flags("retried").sum()),
        references=said.references,
        warnings=[said.note] * bool(said.note) + warnings_of(found, tasks, value, level=level),
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


def _failures(found: Outcomes) -> Integers:
    """Return the failed episodes of each task."""
    return found.tasks("success", failures_as=-1.0).counts - found.tasks("success").counts
