"""Grading stored episodes again, without the model: by the environment, or by a judge of one's own.

What was said before is kept in the metadata, under "success_before" and "score_before". Rewards stay as they were paid.
The metrics get a new record of each suite in which something changed; the last one of a suite counts.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from agent_gym.env import TextEnv
from agent_gym.envs.tool_env import ToolEnv
from agent_gym.errors import ConfigError
from agent_gym.evaluation.played import make_env
from agent_gym.evaluation.totals import total
from agent_gym.importing import load_object
from agent_gym.store.holding import held
from agent_gym.store.run import RunFolder
from agent_gym.store.trajectories import TrajectoryStore
from agent_gym.trajectory import Trajectory

ENVIRONMENT: Final = "environment"
"""Names the environment's own grading."""
_BATCH: Final = 200

Grader = Callable[[Trajectory], float | bool | None]
"""Returns what an episode is worth in [0, 1]; the task is solved at 1. None leaves it as it is."""


@dataclass(frozen=True, slots=True)
class Change:
    """One episode that is graded anew."""

    id: str
    suite: str
    before: tuple[bool, float]
    """Success and score."""
    after: tuple[bool, float]

    @property
    def differs(self) -> bool:
        """Whether the verdict is another one."""
        return self.before != self.after


def rescore(run: RunFolder, grader: str, *, phase: str = "eval") -> Iterator[Change]:
    """Grade the episodes of a run that did not fail, yield each as it is done, and then store what differs.

    Nothing is stored before all are graded: a grader that breaks off leaves the run as it was.

    Args:
        run: The run.
        grader: "environment": an environment that grades answers grades the stored one, any other plays the stored
            actions; or "module:function" or "file.py:function" of a `Grader`.
        phase: Only episodes of this phase.

    Raises:
        UnknownIdError: There is no such function.
        ConfigError: The run does not say what environment it was played in, a grade is out of range, or the function
            fails.
        StoreError: The run cannot be written, or another process writes to it.
    """
    with ExitStack() as stack:
        stack.enter_context(held(run.path))
        store = stack.enter_context(run.trajectories())
        judge = _Environments(run, stack) if grader == ENVIRONMENT else _Own(grader)
        changed: dict[int, list[Change]] = {}
        for id, suite, step in [(row.id, row.suite, row.step) for row in store.outcomes(phase) if row.error is None]:
            trajectory = store.get(id)
            change = _compared(trajectory, suite, judge(trajectory, suite), grader)
            if change.differs:
                changed.setdefault(step, []).append(change)
            yield change
        for step, changes in changed.items():
            _write(store, changes, grader, step=step, phase=phase)
            if phase != "train":
                _log(run, store, {change.suite for change in changes}, step=step, phase=phase)


def _compared(trajectory: Trajectory, suite: str, worth: float | bool | None, grader: str) -> Change:
    """Return a verdict beside the one that is stored."""
    before = (trajectory.success, trajectory.score)
    if worth is None:
        return Change(trajectory.id, suite, before, before)
    try:
        score = float(worth)
    except (TypeError, ValueError):
        score = -1.0
    if not 0 <= score <= 1:
        raise ConfigError(f"The grader {grader} gave {worth!r} for {trajectory.id}: a grade is a number from 0 to 1.")
    return Change(trajectory.id, suite, before, (score >= 1, score))


def _write(store: TrajectoryStore, changes: Sequence[Change], grader: str, *, step: int, phase: str) -> None:
    """Store the new verdicts, some at a time."""
    for start in range(0, len(changes), _BATCH):
        trajectories = []
        for change in changes[start : start + _BATCH]:
            trajectory = store.get(change.id)
            trajectory.success, trajectory.score = change.after
            trajectory.metadata.setdefault("success_before", str(change.before[0]))
            trajectory.metadata.setdefault("score_before", repr(change.before[1]))
            trajectory.metadata["graded_by"] = grader
            trajectories.append(trajectory)
        store.add(trajectories, step=step, phase=phase)


def _log(run: RunFolder, store: TrajectoryStore, suites: set[str], *, step: int, phase: str) -> None:
    """Write the scores of suites to the metrics once more, which lists and curves read."""
    for suite in sorted(suites):
        rows = [row for row in store.outcomes(phase, suite) if row.step == step]
        named = {"suite": suite} if suite else {}
        score = total(rows).as_dict()
        run.log({"phase": phase, "step": step, **named, "split": rows[0].split, **score})


class _Own:
    """A judge of the user's own."""

    def __init__(self, grader: str) -> None:
        self._name = grader
        self._grade: Grader = load_object(grader, "grader", "function")

    def __call__(self, trajectory: Trajectory, suite: str) -> float | bool | None:
        try:
            return self._grade(trajectory)
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            raise ConfigError(
                f"The grader {self._name} failed on {trajectory.id} ({told}): mend it; nothing was changed."
            ) from error


class _Environments:
    """The environment of each suite, made when it is first needed."""

    def __init__(self, run: RunFolder, stack: ExitStack) -> None:
        self._run, self._stack = run, stack
        self._envs: dict[str, TextEnv] = {}

    def __call__(self, trajectory: Trajectory, suite: str) -> float | bool | None:
        if suite not in self._envs:
            self._envs[suite] = make_env(self._run, suite)
            self._stack.callback(self._envs[suite].close)
        return _worth(self._envs[suite], trajectory)


def _worth(env: TextEnv, trajectory: Trajectory) -> float | None:
    """Return what an environment finds an episode worth."""
    seed = int(trajectory.metadata.get("env_seed", trajectory.seed))
    _, info = env.reset(seed=seed, options={"task": trajectory.task_id})
    inner = env.unwrapped
    if isinstance(inner, ToolEnv):
        # What the tools said then may not be had again; the answer was all that counted.
        answer = trajectory.metadata.get("answer_written", trajectory.metadata.get("answer"))
        return inner.grade(answer).score if answer is not None else 0.0
    for turn in trajectory.turns:
        _, _, terminated, truncated, info = env.step(turn.action)
        if terminated or truncated:
            break
    return 1.0 if info["success"] else min(float(info["score"]), 1.0 - 1e-9)
