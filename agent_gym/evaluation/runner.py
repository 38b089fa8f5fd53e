"""Playing suites with a model: every episode is kept as soon as it ends, and a run goes on where it was stopped."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Set
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from agent_gym.config import EvalConfig
from agent_gym.config_files import build
from agent_gym.errors import ConfigError
from agent_gym.evaluation.budgets import Budget, UsedUp
from agent_gym.evaluation.models import Arena, Model, opened
from agent_gym.evaluation.plans import Plan, make_plans
from agent_gym.evaluation.resuming import PHASE, keeping
from agent_gym.evaluation.totals import total
from agent_gym.rollout.score import Score
from agent_gym.rollout.spending import carry_spending
from agent_gym.store.run import RunFolder
from agent_gym.store.trajectories import TrajectoryStore
from agent_gym.trajectory import Trajectory

OnEpisode = Callable[[Trajectory], None]

LEFT = "the player"
"""Why an evaluation stopped where a person plays, and has left."""


class Listener(Protocol):
    """Is told how far an evaluation is."""

    def begin(self, plan: Plan, score: Score, count: int) -> None:
        """A suite begins, of which some episodes may be there already: their score, and how many there will be."""

    def episode(self, trajectory: Trajectory) -> None:
        """An episode has ended, and is stored."""


@dataclass(frozen=True, slots=True)
class SuiteScore:
    """What came of one suite."""

    plan: Plan
    score: Score
    """Over the episodes that are there."""

    @property
    def complete(self) -> bool:
        """Whether every episode has been played."""
        return self.score.episodes >= self.plan.count


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came of an evaluation."""

    suites: tuple[SuiteScore, ...]
    score: Score
    """Over all suites."""
    stopped: str = ""
    """What was used up before the end; empty where every episode has been played."""
    folder: Path | None = None
    used_up: UsedUp | None = None
    """The limit that was reached, if one was."""

    @property
    def success_rate(self) -> float:
        """Successes among the episodes that did not fail; NaN where all did."""
        return self.score.success_rate

    @property
    def planned(self) -> int:
        """How many episodes there are when all have been played."""
        return sum(each.plan.count for each in self.suites)


def evaluate(
    config: EvalConfig | str,
    folder: str | Path | None = None,
    *,
    resume: bool = False,
    retry_failed: bool = False,
    listener: Listener | None = None,
    on_episode: OnEpisode | None = None,
    **settings: Any,
) -> Evaluation:
    """Play tasks and return the score.

    Args:
        config: What to play, and with whom; or the name of a suite.
        folder: Where episodes and metrics are kept; None keeps nothing.
        resume: Go on with the run in that folder, if there is one: what is there is not played again.
        retry_failed: Play the failed episodes of that run again, and nothing else.
        listener: Is told how far it is.
        on_episode: Called as each episode ends.
        **settings: Keys of the configuration, where a suite is named: model, attempts, temperature ...

    Raises:
        StoreError: The folder has a run already, or cannot be written.
        ConfigError: The run in the folder was started with another configuration; names the key.
        DataError: The data of a suite is not there, or not what it was.
        MissingExtraError: A tracker is not installed.
        AgentGymError: The model, the environment or the split is not there.
    """
    config = _configured(config, settings)
    plans = make_plans(config)
    with keeping(folder, config, plans, resume=resume or retry_failed) as (run, store):
        sitting = _Sitting(config, run, store, listener, on_episode)
        stopped = sitting.play(plans, retry_failed=retry_failed)
        scores = tuple(SuiteScore(plan, sitting.score(plan)) for plan in plans)
        path = None if run is None else run.path
        return Evaluation(scores, total(store.outcomes(PHASE)), stopped, path, sitting.used_up)


class _Sitting:
    """One call of `evaluate`."""

    def __init__(
        self,
        config: EvalConfig,
        run: RunFolder | None,
        store: TrajectoryStore,
        listener: Listener | None,
        on_episode: OnEpisode | None,
    ) -> None:
        self.config = config
        self._run, self._store = run, store
        self._listener, self._on_episode = listener, on_episode
        tokens, cost = store.spent(PHASE) if config.limits.tokens or config.limits.cost else (0, 0.0)
        self._budget = Budget(config.limits, tokens=tokens, cost=cost)
        self.used_up: UsedUp | None = None
        """The limit that ended it, if one did."""

    def play(self, plans: list[Plan], *, retry_failed: bool) -> str:
        """Play what is missing, suite after suite; return why it stopped early, if it did."""
        missing = {plan.prefix: self._missing(plan, retry_failed) for plan in plans}
        if not any(missing.values()):
            return ""
        with _ray(self.config), opened(self.config) as model:
            for plan in plans:
                stopped = self._play_suite(plan, missing[plan.prefix], model)
                if stopped:
                    return stopped
        return ""

    def score(self, plan: Plan) -> Score:
        """Return the score of what is there of a suite."""
        return total(self._store.outcomes(PHASE, plan.name or None))

    def _missing(self, plan: Plan, retry_failed: bool) -> set[str]:
        known = self._store.known(PHASE, plan.name or None)
        if retry_failed:
            return {id for id, error in known.items() if error is not None}
        return {job.id for job in plan.jobs(skip=known)}

    def _play_suite(self, plan: Plan, ids: Set[str], model: Model) -> str:
        if not ids:
            return ""
        listener = None if model.interactive else self._listener
        if listener is not None:
            # Those that are played again count when they have been.
            rows = self._store.outcomes(PHASE, plan.name or None)
            before = total(row for row in rows if row.id not in ids)
            listener.begin(plan, before, before.episodes + len(ids))
        heard = self._heard(plan, listener, again=ids & self._store.known(PHASE, plan.name or None).keys())
        left = len(ids)

        def ended(trajectory: Trajectory) -> None:
            nonlocal left
            heard(trajectory)
            left -= 1

        limits, rollout = self.config.limits, plan.suite.rollout
        with plan.environments() as make_env:
            arena = Arena(make_env, plan.suite.env.id, rollout, plan.suite.temperature, limits.episode_seconds)
            jobs = self._budget.admit(plan.jobs(only=ids))
            asyncio.run(_in_time(model.play(jobs, ended, arena), self._budget.seconds_left))
        if left:
            self.used_up = self._budget.used_up
            return LEFT if self.used_up is None else self.used_up.words
        if self._run is not None:
            named = {"suite": plan.name} if plan.name else {}
            score = self.score(plan).as_dict()
            self._run.log({"phase": PHASE, "step": 0, **named, "split": plan.split, **score})
        return ""

    def _heard(self, plan: Plan, listener: Listener | None, again: Set[str]) -> OnEpisode:
        """Return what is done with each episode of a suite as it ends; `again` are those that replace another."""
        named = {"split": plan.split, **({"suite": plan.name} if plan.name else {})}
        on_episode = self._on_episode

        def heard(trajectory: Trajectory) -> None:
            trajectory.metadata.update(named, attempt=trajectory.id.rpartition("/")[2])
            self._budget.count(trajectory)
            if trajectory.id in again:
                carry_spending(self._store.get(trajectory.id), trajectory)
            # Whatever the budget says of it: it has been paid for.
            self._store.add([trajectory], step=0, phase=PHASE)
            self._budget.check(trajectory)
            if listener is not None:
                listener.episode(trajectory)
            if on_episode is not None:
                on_episode(trajectory)

        return heard


@contextmanager
def _ray(config: EvalConfig) -> Iterator[None]:
    """Hold on to Ray where it is asked for, so that it does not start anew with every suite."""
    if config.rollout.workers == "local":
        yield
        return
    from agent_gym.rollout.ray_workers import open_session

    with closing(open_session(config.rollout)):
        yield


async def _in_time(playing: Awaitable[None], seconds: float | None) -> None:
    """Play for so long at most; what is in flight then is dropped."""
    try:
        async with asyncio.timeout(seconds) as limit:
            await playing
    except TimeoutError:
        if not limit.expired():
            raise


def _configured(config: EvalConfig | str, settings: dict[str, Any]) -> EvalConfig:
    if isinstance(config, str):
        return build(EvalConfig, {"suites": [config], **settings})
    if settings:
        raise ConfigError(f"{sorted(settings)[0]!r} goes into the configuration, or beside the name of a suite.")
    return config
