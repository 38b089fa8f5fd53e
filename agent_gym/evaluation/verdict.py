"""What comes of comparing two runs, and what that says in words."""

from dataclasses import asdict, dataclass, field
from typing import Any

from agent_gym.evaluation.outcomes import Metric
from agent_gym.evaluation.statistics import Estimate
from agent_gym.evaluation.support import Support

MANY_FAILED = 0.05
"""From that share of failed episodes on, a comparison says what they would change."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The second run less the first."""

    pairs: int
    """Tasks that both have; 0 where the two are compared without pairs."""
    a: float | None
    """Mean of the first run over the tasks that are compared."""
    b: float | None
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    test: str
    """Which test the p-value is of."""
    method: str
    """How the interval was made."""
    adjusted: float | None = None
    """The p-value, adjusted for the number of comparisons made at once (Holm)."""

    def told_apart(self, level: float) -> bool:
        """Whether the test is passed."""
        p_value = self.p_value if self.adjusted is None else self.adjusted
        return p_value is not None and p_value < 1 - level


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs, all of its tasks counted."""

    run: str
    tasks: int
    attempts: int
    failed: int
    value: Estimate

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers by name."""
        own = {"run": self.run, "tasks": self.tasks, "attempts": self.attempts, "failed": self.failed}
        return own | self.value.as_rate()


@dataclass(frozen=True, slots=True)
class Differing:
    """A task on which the two runs differ."""

    task_id: str
    task_type: str
    a: float
    b: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two runs on one suite come to."""

    suite: str
    metric: Metric
    level: float
    a: Side
    b: Side
    overall: Difference
    only_a: int
    """Tasks that only the first run has; they are left out, as are those below."""
    only_b: int
    failed: int
    """Tasks that both have, where one has failed episodes alone."""
    types: dict[str, Difference]
    """By type of task; their p-values are adjusted for how many types there are."""
    smallest: float | None
    """The smallest difference that so many tasks would mostly show, as these values are spread."""
    tasks_needed: int | None
    """About how many tasks a difference as large as the observed one takes to be seen in 80% of comparisons."""
    counting_failures: float | None
    """The difference of success, were failed episodes wrong ones."""
    support: Support | None
    """Which tasks are solved at least once, over tasks with equally many attempts, two or more; None without those."""
    differing: list[Differing] = field(default_factory=list)
    suites_alone: list[str] = field(default_factory=list)
    """Suites that only one of the runs has, and which; said with the first comparison of two runs."""
    otherwise: list[str] = field(default_factory=list)
    """How the two were told to play otherwise than each other."""
    unit: float = 100.0
    """What a difference is multiplied with to be shown: 100 gives points, 1 the metric itself."""

    @property
    def told_apart(self) -> bool:
        """Whether the two really differ, as far as the test can tell."""
        return self.overall.told_apart(self.level)

    @property
    def sentence(self) -> str:
        """What came of it, in one sentence."""
        return sentence_of(self)

    @property
    def warnings(self) -> list[str]:
        """Sentences on what was left out, and on what the comparison cannot bear."""
        return warnings_of(self)

    def as_dict(self) -> dict[str, Any]:
        """Return everything in plain values, for JSON."""
        overall = asdict(self.overall)
        paired = {"a": overall.pop("a"), "b": overall.pop("b")}
        return {
            "suite": self.suite,
            "metric": self.metric,
            "level": self.level,
            "a": self.a.as_dict() | {"paired": paired["a"]},
            "b": self.b.as_dict() | {"paired": paired["b"]},
            **overall,
            "left_out": {"only_a": self.only_a, "only_b": self.only_b, "failed": self.failed},
            "told_apart": self.told_apart,
            "sentence": self.sentence,
            "by_type": [{"type": name, **asdict(one)} for name, one in self.types.items()],
            "smallest": self.smallest,
            "tasks_needed": self.tasks_needed,
            "counting_failures": self.counting_failures,
            "support": None if self.support is None else self.support.as_dict(),
            "warnings": self.warnings,
            "differing": [asdict(one) for one in self.differing],
        }


def sentence_of(comparison: Comparison) -> str:
    """Return whether one run is better, by how much, and how sure that is."""
    overall = comparison.overall
    if overall.difference is None or overall.p_value is None:
        return "The runs cannot be compared: one of them has no episode that did not fail."
    told = f"({_bounds(comparison, overall)}{_p(overall)}, {overall.test} over {_over(comparison)})"
    if comparison.told_apart:
        word = "better" if overall.difference > 0 else "worse"
        return f"B is {word} than A by {_amount(comparison, abs(overall.difference))} {told}."
    return f"A and B are not told apart: B - A is {_amount(comparison, overall.difference)} {told}."


def warnings_of(comparison: Comparison) -> list[str]:
    """Return what is to be said beside the sentence."""
    said = [
        _suites_alone(comparison),
        _otherwise(comparison),
        _left_out(comparison),
        _too_small(comparison),
        _failures(comparison),
    ]
    return [sentence for sentence in said if sentence]


def _suites_alone(comparison: Comparison) -> str:
    names = comparison.suites_alone
    return f"Suites left out, since only one of the runs has them: {', '.join(names)}." if names else ""


def _otherwise(comparison: Comparison) -> str:
    told = "; ".join(comparison.otherwise)
    return f"The two were played by different rules, which may be all that differs: {told}." if told else ""


def _left_out(comparison: Comparison) -> str:
    if not comparison.overall.pairs:
        return (
            "The runs share no task that both have finished, and are compared without pairs: that sees less, and only "
            "means something where the tasks are equally hard."
        )
    reasons = [
        f"{count:,} {reason}"
        for count, reason in (
            (comparison.only_a, "only A has"),
            (comparison.only_b, "only B has"),
            (comparison.failed, "of which one run has failed episodes alone"),
        )
        if count
    ]
    return f"Tasks left out: {', '.join(reasons)}." if reasons else ""


def _too_small(comparison: Comparison) -> str:
    overall, smallest = comparison.overall, comparison.smallest
    if comparison.told_apart or smallest is None or not overall.pairs:
        return ""
    said = f"{overall.pairs:,} tasks would mostly show a difference of {_amount(comparison, smallest)} or more"
    if not overall.difference or comparison.tasks_needed is None or comparison.tasks_needed > 10_000_000:
        return f"{said}, not a smaller one."
    if abs(overall.difference) >= smallest:
        return ""
    return (
        f"{said}: one of {_amount(comparison, abs(overall.difference))} takes about {comparison.tasks_needed:,} tasks."
    )


def _failures(comparison: Comparison) -> str:
    shares = [side.failed / side.attempts if side.attempts else 0.0 for side in (comparison.a, comparison.b)]
    if max(shares) <= MANY_FAILED or comparison.counting_failures is None:
        return ""
    what = "B - A" if comparison.metric == "success" else "B - A in success"
    return (
        f"{shares[0]:.0%} of A's episodes and {shares[1]:.0%} of B's failed and are not counted: counted as wrong, "
        f"{what} would be {number(100 * comparison.counting_failures, 100)} points."
    )


def amount(difference: float, unit: float, *, sign: bool = False) -> str:
    """Return a difference in words: in points, or in the unit of the metric."""
    shown = number(difference * unit, unit)
    plus = "+" if sign and difference > 0 else ""
    return f"{plus}{shown} points" if unit == 100 else f"{plus}{shown}"


def number(value: float, unit: float) -> str:
    """Return a number with the digits that count; never "-0.0"."""
    shown = f"{value:.1f}" if unit == 100 else f"{value:.3g}"
    return shown.removeprefix("-") if float(shown) == 0 else shown


def _amount(comparison: Comparison, difference: float) -> str:
    return amount(difference, comparison.unit)


def _bounds(comparison: Comparison, overall: Difference) -> str:
    if overall.low is None or overall.high is None:
        return ""
    ends = [overall.low, overall.high]
    if comparison.told_apart and (overall.difference or 0) < 0:
        # "Worse by 28 points" has an interval of points by which it is worse.
        ends = [-overall.high, -overall.low]
    low, high = (number(end * comparison.unit, comparison.unit) for end in ends)
    return f"{comparison.level:.0%}: {low} to {high}; "


def _p(overall: Difference) -> str:
    value = _p_value(overall.p_value or 0.0)
    return value if overall.adjusted is None else f"{value}, adjusted {_p_value(overall.adjusted).removeprefix('p ')}"


def _p_value(value: float) -> str:
    if value < 0.001:
        return "p < 0.001"
    return f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


def _over(comparison: Comparison) -> str:
    pairs = comparison.overall.pairs
    if not pairs:
        return f"{comparison.a.tasks:,} and {comparison.b.tasks:,} tasks"
    return f"{pairs:,} task" + ("" if pairs == 1 else "s")
