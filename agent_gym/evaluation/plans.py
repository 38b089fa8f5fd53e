"""From a configuration to what is played: which tasks of which suites, with what seeds and under which names.

Knows environments, and nothing of models or of where episodes are kept.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

from agent_gym.config import EvalConfig
from agent_gym.config_files import as_dict
from agent_gym.env import Task, TextEnv
from agent_gym.errors import ConfigError, DataError
from agent_gym.evaluation.suites import Suite, find_suite
from agent_gym.misfits import tasks_of
from agent_gym.registry import make
from agent_gym.rollout.collect import Job
from agent_gym.rollout.seeds import derive_seed

_TASKS: Final = 100
"""How many tasks are played where nobody says how many."""
ELSEWHERE: Final = ("concurrency", "workers", "ray_")
"""Beginnings of the settings that say where and how many at once episodes are played, and not how."""
_SHORT: Final = 16
"""Hex digits that tell what one task says from another."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is played of one suite, or of a split of an environment."""

    name: str
    """The suite's; empty where there is none."""
    suite: Suite
    """What is played and how, the configuration's own wishes included."""
    split: str
    task_ids: tuple[str, ...]
    task_digests: tuple[str, ...]
    """A few digits of what each task says; empty where the environment cannot tell."""
    seed: int
    changed: tuple[str, ...] = ()
    """What is otherwise than the suite says, and decides what comes of an episode or of how many: "tasks=20 of 134"."""

    @property
    def prefix(self) -> str:
        """What the ids of its episodes begin with."""
        return self.name or "eval"

    @property
    def title(self) -> str:
        """What it is called when speaking to people."""
        return self.name or f"{self.suite.env.id}:{self.split}"

    @property
    def attempts(self) -> int:
        """Episodes a task."""
        return self.suite.attempts

    @property
    def count(self) -> int:
        """Episodes in all."""
        return len(self.task_ids) * self.attempts

    def make_env(self) -> TextEnv:
        """Make the environment."""
        return make(self.suite.env.id, **{**self.suite.options(), "split": self.split})

    @contextmanager
    def environments(self) -> Iterator[Callable[[], TextEnv]]:
        """Give what makes the environments that episodes are played in: here, or in actors of Ray.

        Raises:
            ConfigError: Ray does not start, or its cluster does not answer.
            MissingExtraError: Ray is not installed.
        """
        if self.suite.rollout.workers == "local":
            yield self.make_env
            return
        from agent_gym.rollout.ray_workers import RayPool

        with RayPool(self.suite.rollout, self.suite.env.id, {**self.suite.options(), "split": self.split}) as pool:
            yield pool.make

    def jobs(self, skip: Collection[str] = (), only: Collection[str] | None = None) -> Iterator[Job]:
        """Yield the episodes, attempt after attempt of each task.

        Args:
            skip: Ids of episodes to leave out.
            only: If not None, ids of the episodes to play, and of no others.
        """
        for index, task_id in enumerate(self.task_ids):
            group = f"{self.prefix}/{index}"
            for attempt in range(self.attempts):
                id = f"{group}/{attempt}"
                if id not in skip and (only is None or id in only):
                    yield Job(id, group, task_id, derive_seed(self.seed, index, attempt))

    def record(self) -> dict[str, Any]:
        """Return what a run keeps of it, to be compared when the run is resumed, and to be shown."""
        suite = as_dict(self.suite)
        tasks = [list(pair) for pair in zip(self.task_ids, self.task_digests, strict=True)]
        return {**suite, "name": self.name, "split": self.split, "tasks": tasks, "changed": list(self.changed)}


@dataclass(frozen=True, slots=True)
class Digest:
    """What tells a list of tasks from another."""

    count: int
    ids: str
    contents: str | None
    """None where the environment cannot tell what its tasks say."""


def digest(ids: Sequence[str], contents: Sequence[str]) -> Digest:
    """Return the digest of tasks: SHA-256 over their ids, and over their contents, a line each."""
    told = _hex("\n".join(contents)) if contents and all(contents) else None
    return Digest(len(ids), _hex("\n".join(ids)), told)


def make_plans(config: EvalConfig) -> list[Plan]:
    """Return what a configuration asks for, suite after suite.

    Raises:
        ConfigError: It asks for a suite and an environment at once, or there are no tasks.
        DataError: A suite's tasks are not those that it was made of.
        AgentGymError: The suite, the environment or the split is not there.
    """
    if not config.suites:
        suite = Suite(
            name="eval",
            env=config.env,
            split=config.split,
            tasks=config.tasks or _TASKS,
            attempts=config.attempts or 1,
            temperature=config.temperature,
            rollout=config.rollout,
        )
        return [_plan(suite, "", config)]
    if "id" in config.env.model_fields_set or config.split is not None:
        raise ConfigError("A suite has an environment and a split of its own: leave out --env and --split, or --suite.")
    plans = [_plan(find_suite(name), None, config) for name in config.suites]
    names = [plan.name for plan in plans]
    if len(set(names)) < len(names):
        raise ConfigError(f"The suites {', '.join(names)} are not all different: name each once.")
    return plans


def chosen_tasks(suite: Suite, env: TextEnv, split: str) -> list[Task]:
    """Return the tasks of a suite.

    Raises:
        ConfigError: There are none.
        UnknownIdError: The suite names a task that the environment does not have.
    """
    if isinstance(suite.tasks, list):
        return [env.find_task(id) for id in suite.tasks]
    listed: Sequence[Task] = tasks_of(env, split)
    if suite.stretch is not None:
        listed = listed[slice(*suite.stretch)]
    if suite.types:
        known = sorted({str(task.metadata["task_type"]) for task in listed if "task_type" in task.metadata})
        listed = [task for task in listed if task.metadata.get("task_type") in suite.types]
        if not listed:
            there = f"it has {', '.join(known)}" if known else "it does not say of what types its tasks are"
            raise ConfigError(f"The suite {suite.name} has no task of the types {', '.join(suite.types)}: {there}.")
    if not listed:
        raise ConfigError(f"The environment {suite.env.id!r} has no tasks in the split {split!r} for {suite.name!r}.")
    return _spread(listed, suite.tasks)


def _plan(suite: Suite, name: str | None, config: EvalConfig) -> Plan:
    own, suite = suite, _wished(suite, config) if name is None else suite
    with closing(_env(suite)) as env:
        split = suite.split or env.held_out_split
        tasks = chosen_tasks(suite, env, split)
        contents = [env.content_of(task) for task in tasks]
    _check(suite, digest([task.id for task in tasks], contents))
    pairs = [
        (task.id, _hex(content)[:_SHORT] if content else "") for task, content in zip(tasks, contents, strict=True)
    ]
    changed = _changed(own, suite)
    if name is None and config.tasks is not None and config.tasks < len(pairs):
        changed.append(f"tasks={config.tasks} of {len(pairs)}")
        pairs = _spread(pairs, config.tasks)
    ids, digests = zip(*pairs, strict=True)
    return Plan(suite.name if name is None else name, suite, split, ids, digests, config.seed, tuple(changed))


def _env(suite: Suite) -> TextEnv:
    lacking, needs = suite.lacking(), suite.needs
    if lacking:
        raise DataError(f"The suite {suite.name} needs what is not there: run {lacking}. {needs.note}".strip())
    if needs.option and needs.option not in suite.env.options:
        raise ConfigError(
            f"The suite {suite.name} leaves open what the option {needs.option!r} of {suite.env.id} is: "
            f"add --set env.options.{needs.option}=...; agent-gym suites {suite.name} says more."
        )
    splits = {} if suite.split is None else {"split": suite.split}
    return make(suite.env.id, **{**suite.options(), **splits})


def _wished(suite: Suite, config: EvalConfig) -> Suite:
    """Return a suite with what a configuration sets on top of it."""
    env = suite.env.model_copy(update={"options": {**suite.env.options, **config.env.options}})
    own = {name: getattr(config.rollout, name) for name in config.rollout.model_fields_set}
    wishes: dict[str, Any] = {"env": env, "rollout": suite.rollout.model_copy(update=own)}
    if "temperature" in config.model_fields_set:
        wishes["temperature"] = config.temperature
    if config.attempts is not None:
        wishes["attempts"] = config.attempts
    return suite.model_copy(update=wishes)


def _changed(own: Suite, wished: Suite) -> list[str]:
    """Return what a configuration sets otherwise than a suite says; more attempts are no other way to play."""
    before, after = (
        {**one.env.options, **as_dict(one.rollout), "temperature": one.temperature} for one in (own, wished)
    )
    return [
        f"{name}={value}"
        for name, value in after.items()
        if not name.startswith(ELSEWHERE) and before.get(name, ...) != value
    ]


def _check(suite: Suite, found: Digest) -> None:
    """Compare the tasks that are there with those that a suite was made of."""
    for name, what in (("count", "number"), ("ids", "ids have the SHA-256"), ("contents", "contents have the SHA-256")):
        pinned, now = getattr(suite, name), asdict(found)[name]
        if pinned is not None and now is not None and now != pinned:
            raise DataError(
                f"The tasks of {suite.name} are not those that it was made of: their {what} {now} instead of {pinned}; "
                "get the data that the suite names, or write a suite of your own for these tasks."
            )


def _spread(tasks: Sequence[Any], count: int | None) -> list[Any]:
    """Return so many of the tasks, spread over all of them: environments list their tasks kind after kind."""
    count = len(tasks) if count is None else min(count, len(tasks))
    return [tasks[index * len(tasks) // count] for index in range(count)]


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
