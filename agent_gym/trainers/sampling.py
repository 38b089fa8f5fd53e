"""Where a step's episodes come from: which tasks, with which seeds, played with which engine.

Everything random follows from the run's seed and the step's number, so that a step which is played again is the same.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Self

from agent_gym.config import TrainConfig
from agent_gym.engines.base import Engine
from agent_gym.env import Task, TextEnv
from agent_gym.registry import make
from agent_gym.rollout.chat import Chat
from agent_gym.rollout.collect import Collector, Job
from agent_gym.rollout.episode import episode_settings
from agent_gym.rollout.seeds import derive_seed
from agent_gym.trainers.algorithm import RolloutStrategy
from agent_gym.trajectory import Group, Trajectory


class Sampler:
    """Plays the episodes that training learns from, and those that measure it.

    Args:
        config: Of the run.
        engine: Where the actions come from.
        chat: How observations become tokens.
        rollout: Which episodes are played for a step, and where they branch.
    """

    def __init__(self, config: TrainConfig, engine: Engine, chat: Chat, rollout: RolloutStrategy) -> None:
        self.config = config
        self.engine = engine
        self.chat = chat
        self.rollout = rollout
        self._env: TextEnv | None = None
        self._training: Collector | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the environments."""
        if self._env is not None:
            self._env.close()
        if self._training is not None:
            self._training.close()
        self._env = self._training = None

    @property
    def split(self) -> str:
        """The split that training draws its tasks from."""
        return self._tasks_env().split

    def groups(self, step: int) -> list[Group]:
        """Play the groups that training learns from after `step` steps."""
        if self._training is None:
            self._training = self._collector(None, self.config.rollout.temperature)
        coroutine = self.rollout.collect(
            self._training,
            [task.id for task in self._draw_tasks(step)],
            seed=derive_seed(self.config.seed, "rollout", step),
            prefix=f"train/{step + 1}/",
            on_episode=None,
        )
        return asyncio.run(coroutine)

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
        collector = self._collector(section.split, section.temperature)
        try:
            tasks = collector.probe.tasks(collector.probe.split)
            jobs = [
                Job(f"{phase}/{step}/{index}", f"{phase}/{step}/{index}", tasks[index].id, derive_seed(seed, index))
                for index in range(min(count, len(tasks)))
            ]
            begun(len(jobs))
            return asyncio.run(collector.play(jobs, heard))
        finally:
            collector.close()

    def _draw_tasks(self, step: int) -> list[Task]:
        rng = random.Random(derive_seed(self.config.seed, "tasks", step))
        env = self._tasks_env()
        tasks = env.tasks(env.split)
        return [tasks[rng.randrange(len(tasks))] for _ in range(self.config.rollout.tasks)]

    def _tasks_env(self) -> TextEnv:
        if self._env is None:
            self._env = self._make_env(None)
        return self._env

    def _collector(self, split: str | None, temperature: float) -> Collector:
        return Collector(
            lambda: self._make_env(split),
            self.engine,
            self.chat,
            episode_settings(self.config.rollout, temperature),
            concurrency=self.config.rollout.concurrency,
            env_id=self.config.env.id,
        )

    def _make_env(self, split: str | None) -> TextEnv:
        options = dict(self.config.env.options)
        if split is not None:
            options["split"] = split
        return make(self.config.env.id, **options)
