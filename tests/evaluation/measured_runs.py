"""Runs with made-up outcomes."""

from collections.abc import Sequence
from pathlib import Path

from agent_gym.store.run import RunFolder
from agent_gym.trajectory import Trajectory, Turn

Outcome = bool | float | str
"""Success, a score, or why the episode failed."""


def episode(
    task: int, attempt: int, outcome: Outcome, *, suite: str = "toy/test", kinds: int = 2, answer: str | None = None
) -> Trajectory:
    """Return an episode of one turn."""
    metadata = {"suite": suite, "attempt": str(attempt), "task_type": f"kind {task % kinds}"}
    metadata |= {} if answer is None else {"answer": answer}
    failed = isinstance(outcome, str)
    value = 0.0 if failed else float(outcome)
    return Trajectory(
        task_id=f"task {task}",
        env_id="toy",
        id=f"{suite}/{task}/{attempt}",
        group_id=f"{suite}/{task}",
        turns=[Turn("what?", "this", "this", 0, 2, reward=value, generated_tokens=2, engine_seconds=0.5)],
        token_ids=[1, 2],
        action_mask=[1, 1],
        logprobs=[0.0, 0.0],
        entropies=[0.5, 0.5],
        success=value == 1,
        score=value,
        terminated=True,
        error=outcome if failed else None,
        metadata=metadata,
    )


def add(
    run: RunFolder,
    outcomes: Sequence[Sequence[Outcome]],
    *,
    phase: str = "eval",
    step: int = 0,
    suite: str = "toy/test",
    first: int = 0,
) -> None:
    """Store what came of each attempt at each task, whose numbers count from `first`."""
    episodes = [
        episode(first + task, attempt, outcome, suite=suite)
        for task, attempts in enumerate(outcomes)
        for attempt, outcome in enumerate(attempts)
    ]
    for one in episodes:
        one.id = f"{phase}/{step}/{one.id}"
    with run.trajectories() as store:
        store.add(episodes, step=step, phase=phase)


def make(path: Path, outcomes: Sequence[Sequence[Outcome]], **where: str | int) -> RunFolder:
    """Return a run with these outcomes."""
    run = RunFolder.create(path, {"env": {"id": "toy"}})
    add(run, outcomes, **where)  # type: ignore[arg-type]
    return run
