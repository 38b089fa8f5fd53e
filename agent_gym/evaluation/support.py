"""Does training find what the base model could not, or only make likelier what it could? The metrics of support.

Source: "The Invisible Leash", 2025, sections 3 and B.4, with a task as the unit: is it solved at least once in k
attempts by the base model, and by the trained one?
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Support:
    """How many tasks the two models solve at least once, and what follows; None is undefined (0 / 0)."""

    preserved: int
    """P: solved by both."""
    expanded: int
    """E: solved by the trained model only."""
    shrunk: int
    """S: solved by the base model only."""
    outside: int
    """O: solved by neither."""
    left_out: int = 0
    """Tasks that both have tried, and not equally often, or only once."""

    @property
    def srr(self) -> float | None:
        """Support retention rate P / (P + S): of what the base model solves, what is kept."""
        return _share(self.preserved, self.preserved + self.shrunk)

    @property
    def ndr(self) -> float | None:
        """Net discovery rate E / (P + E): of what the trained model solves, what is new."""
        return _share(self.expanded, self.preserved + self.expanded)

    @property
    def sds(self) -> float | None:
        """Support dynamic score: the harmonic mean of retention and discovery."""
        retained, discovered = self.srr, self.ndr
        if retained is None or discovered is None:
            return None
        return 2 * retained * discovered / (retained + discovered) if retained + discovered else 0.0

    @property
    def nscr(self) -> float | None:
        """Net support change rate (E - S) / (P + E + S), between -1 and 1."""
        return _share(self.expanded - self.shrunk, self.preserved + self.expanded + self.shrunk)

    def as_dict(self) -> dict[str, Any]:
        """Return the counts and the rates by name."""
        return asdict(self) | {"srr": self.srr, "ndr": self.ndr, "sds": self.sds, "nscr": self.nscr}


def support(base: Sequence[bool], trained: Sequence[bool]) -> Support:
    """Count the tasks by who solves them.

    Args:
        base: For each task whether the base model solved it at least once in k attempts.
        trained: The same of the trained model, with as many attempts, in the same order.
    """
    pairs = [(bool(before), bool(after)) for before, after in zip(base, trained, strict=True)]
    return Support(
        preserved=pairs.count((True, True)),
        expanded=pairs.count((False, True)),
        shrunk=pairs.count((True, False)),
        outside=pairs.count((False, False)),
    )


def unseen_probability(attempts: int, *, doubt: float = 0.05) -> float:
    """Return how likely what was never seen in k attempts may still be.

    Args:
        attempts: k.
        doubt: z: with confidence 1 - z the probability is no larger.

    Returns:
        -ln z / k, which is never below the exact 1 - z^(1 / k); 1 at most.
    """
    if attempts < 1:
        raise ValueError(f"attempts must be at least 1, not {attempts}.")
    if not 0 < doubt < 1:
        raise ValueError(f"doubt must lie between 0 and 1, not {doubt}.")
    return min(1.0, -math.log(doubt) / attempts)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
