"""Tables of an evaluation and comparisons of two, computed when something was written and kept until then."""

from typing import Any

from agent_gym.viewer.runs import Run

Json = dict[str, Any]


def report(run: Run, phase: str | None) -> Json:
    """Return the tables of a run's evaluations, a suite each."""
    return {"suites": [], "note": "No episode has been stored yet."}


def comparison(run: Run, other: Run, *, suite: str | None, limit: int, after: int) -> Json:
    """Return how two runs differ on the tasks that both played, and a page of those tasks."""
    raise NotImplementedError
