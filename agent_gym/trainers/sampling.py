"""Where a step's episodes come from: which tasks, with which seeds, played with which engine.

Everything random follows from the run's seed and the step's number, so that a step which is played again is the same.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from agent_gym.config import TrainConfig
from agent_gym.engines.base import Engine
from agent_gym.env import Task, TextEnv
from agent_gym.misfits import tasks_of
from agent_gym.registry import make
from agent_gym.rollout.chat import Chat
from agent_gym.rollout.collect import Collector, Job
from agent_gym.rollout.episode import episode_settings
from agent_gym.rollout.seeds import derive_seed
from agent_gym.rollout.sharing import Share
from agent_gym.trainers.algorithm import RolloutStrategy
from agent_gym.trainers.mismatch import lag_metrics
from agent_gym.trajectory import Group, Trajectory

if TYPE_CHECKING:
    from torch import Tensor

    from agent_gym.rollout.ray_workers import RayPool

Result = TypeVar("Result")


class Sampler:
    """Plays the episodes that training learns from, and those that measure it; runs the engine that they come from.

    Args:
        config: Of the run.
        engine: Where the actions come from. The sampler closes it.
        chat: How observations become tokens.
        rollout: Which episodes are played for a step, and where they branch.
        share: What this process plays, where several play together.
    """

    def __init__(
        self,
        config: TrainConfig,
        engine: Engine,
        chat: Chat,
        rollout: RolloutStrategy,
        share: Share | None = None,
    ) -> None:
        self.config = config
        self.engine = engine
        self.chat = chat
        self.rollout = rollout
        self.share = share
        self._training_share = share
        self._env: TextEnv | None = None
        self._pool: RayPool | None = None
        self._training: Collector | None = None
        self._runner: asyncio.Runner | None = None
        self._metrics: dict[str, float] = {}
        self._seconds: dict[str, float] = {}

    def __enter__(self) -> Self:
        if self.config.rollout.workers == "ray":
            # What is wrong with a cluster shows before anything is played.
            self._open_pool()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the environments and the engine. A sampler that is used again after that opens new ones."""
        try:
            if self._runner is not None:
                self._runner.run(self.engine.aclose())
                self._runner.close()
        finally:
            self._runner = None
            self._close_environments()

    def _close_environments(self) -> None:
        if self._env is not None:
            self._env.close()
        if self._training is not None:
            self._training.close()
        if self._pool is not None:
            self._pool.close()
        self._env = self._training = self._pool = None

    def call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run something with the engine, in the event loop that its connections belong to, and return its result."""
        if self._runner is None:
            self._runner = asyncio.Runner()
        try:
            return self._runner.run(coroutine)
        except KeyboardInterrupt:
            _end_tasks(self._runner.get_loop())
            raise

    @property
    def split(self) -> str:
        """The split that training draws its tasks from."""
        return self._tasks_env().split

    def groups(self, step: int) -> list[Group]:
        """Return the groups that training learns from after `step` steps.

        Raises:
            AgentGymError: They cannot be played.
        """
        started = time.perf_counter()
        groups = self.call(self._collect(step))
        self._seconds = {"rollout": time.perf_counter() - started}
        self._metrics = {**self.rollout.metrics(), **lag_metrics(groups, self.engine.version)}
        return groups

    def updated(self, weights: "Iterable[tuple[str, Tensor]] | None", step: int) -> None:
        """Sample with new weights from now on; their version is the number of steps that they have seen.

        Args:
            weights: Names and full tensors, see `Engine.sync`; None where the engine works on the trainer's model.
            step: Steps done.

        Raises:
            EngineError: The engine cannot take them.
        """
        started = time.perf_counter()
        self.call(self._take_weights(weights, step))
        self._seconds["sync"] = time.perf_counter() - started

    def metrics(self) -> Mapping[str, float]:
        """Return what there is to log of the groups last returned: of the strategy, and how old their weights were."""
        return self._metrics

    def seconds(self) -> Mapping[str, float]:
        """Return how long things took: "rollout" (playing the groups last returned), "sync" (handing out weights)."""
        return self._seconds

    async def _collect(self, step: int, *, all_begun: Callable[[], None] | None = None) -> list[Group]:
        if self._training is None:
            self._training = self._collector(None, self.config.rollout.temperature, self._training_share)
        self._training.all_begun = all_begun
        return await self.rollout.collect(
            self._training,
            [task.id for task in self._draw_tasks(step)],
            seed=derive_seed(self.config.seed, "rollout", step),
            prefix=f"train/{step + 1}/",
            on_episode=None,
        )

    async def _take_weights(self, weights: "Iterable[tuple[str, Tensor]] | None", step: int) -> None:
        await self.engine.sync(weights)
        # A run that was resumed counts on from where it was.
        self.engine.version = step

    def measure(
        self,
        phase: str,
        step: int,
        count: int,
        *,
        begun: Callable[[int], None],
        heard: Callable[[Trajectory], None],
    ) -> list[Trajectory]:
        """Play tasks of the measured split, the same ones each time.

        Args:
            phase: Begins the episodes' ids.
            step: Steps done; the second part of the ids.
            count: Tasks, at most.
            begun: Hears how many there are.
            heard: Hears of each episode.
        """
        section = self.config.measure
        seed = derive_seed(self.config.seed, "measure")
        collector = self._collector(section.split, section.temperature, self.share)
        try:
            tasks = collector.probe.tasks(collector.probe.split)
            jobs = [
                Job(f"{phase}/{step}/{index}", f"{phase}/{step}/{index}", tasks[index].id, derive_seed(seed, index))
                for index in range(min(count, len(tasks)))
            ]
            begun(len(jobs))
            return self.call(collector.play(jobs, heard))
        finally:
            collector.close()

    def _draw_tasks(self, step: int) -> list[Task]:
        rng = random.Random(derive_seed(self.config.seed, "tasks", step))
        env = self._tasks_env()
        tasks = tasks_of(env, env.split)
        return [tasks[rng.randrange(len(tasks))] for _ in range(self.config.rollout.tasks)]

    def _tasks_env(self) -> TextEnv:
        if self._env is None:
            self._env = self._make_env(None)
        return self._env

    def _collector(self, split: str | None, temperature: float, share: Share | None) -> Collector:
        return Collector(
            lambda: self._playing_env(split),
            self.engine,
            self.chat,
            episode_settings(self.config.rollout, temperature),
            concurrency=self.config.rollout.concurrency,
            env_id=self.config.env.id,
            share=share,
        )

    def _playing_env(self, split: str | None) -> TextEnv:
        """Make an environment where episodes are played: here, or in an actor of Ray."""
        if self.config.rollout.workers == "local":
            return self._make_env(split)
        return self._open_pool().make(**({} if split is None else {"split": split}))

    def _open_pool(self) -> "RayPool":
        if self._pool is None:
            from agent_gym.rollout.ray_workers import RayPool

            env = self.config.env
            self._pool = RayPool(self.config.rollout, env.id, env.options, self.share)
        return self._pool

    def _make_env(self, split: str | None) -> TextEnv:
        options = dict(self.config.env.options)
        if split is not None:
            options["split"] = split
        return make(self.config.env.id, **options)


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """End what a loop was running when a signal broke it off.

    Where Ctrl-C is ignored, as in what a script has put into the background, no loop answers signals by cancelling:
    what raised in the middle of one task would be raised again by those that wait for it, when the loop runs next.
    """
    loop.set_exception_handler(_tell_of_others)
    # Each round ends one task at the least, but for those that are not willing to.
    for _ in asyncio.all_tasks(loop):
        tasks = asyncio.all_tasks(loop)
        if not tasks:
            break
        for task in tasks:
            task.cancel()
        with contextlib.suppress(KeyboardInterrupt):
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


def _tell_of_others(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Do as a loop does with errors that nobody has asked for, but for the interruption, which has been raised."""
    if not isinstance(context.get("exception"), KeyboardInterrupt):
        loop.default_exception_handler(context)
