"""What `--model` may be, and one way to play with all of it.

A model is opened once and plays the episodes of many suites; what differs between suites stands in an `Arena`.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent_gym.config import EvalConfig, RolloutSection
from agent_gym.engines.base import Engine
from agent_gym.env import TextEnv
from agent_gym.errors import ConfigError
from agent_gym.rollout.actions import syntax
from agent_gym.rollout.chat import ByteChat, Chat, TemplateChat
from agent_gym.rollout.collect import Collector, Job, OnEpisode
from agent_gym.rollout.episode import episode_settings
from agent_gym.rollout.player import Policy, act_at_random, follow_demonstrator, play
from agent_gym.store.run import RunFolder

POLICIES: dict[str, Policy] = {"expert": follow_demonstrator, "random": act_at_random}
"""Players that need no model."""


@dataclass(frozen=True, slots=True)
class Arena:
    """Where and how episodes are played: what may differ from suite to suite."""

    make_env: Callable[[], TextEnv]
    env_id: str
    rollout: RolloutSection
    temperature: float = 1.0
    episode_seconds: float | None = None
    """Wall time after which an episode has failed."""


class Model(ABC):
    """Who plays."""

    interactive: bool = False
    """Whether a person plays, on this terminal: nothing else should be drawn there."""

    @abstractmethod
    async def play(self, jobs: Iterable[Job], on_episode: OnEpisode, arena: Arena) -> None:
        """Play jobs; `on_episode` gets each episode as it ends, and nothing is kept.

        A person may leave before the jobs are done; then this returns, and the unfinished episode is nobody's.

        Args:
            jobs: Each is taken when there is room for it; a generator that stops early ends the playing once the
                episodes in flight have ended. Cancelled, those in flight are dropped.
            on_episode: What it raises ends everything.
            arena: Where, and how.

        Raises:
            RefusedError: No request to the model can succeed.
            ConfigError: The model cannot act in this environment.
        """

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Give back what the model holds."""


class EngineModel(Model):
    """A model behind an engine; its episodes are played at the same time.

    Args:
        engine: Generates.
        chat: Returns the chat of a system prompt.
    """

    def __init__(self, engine: Engine, chat: Callable[[str], Chat]) -> None:
        self.engine = engine
        self._chat = chat

    async def play(self, jobs: Iterable[Job], on_episode: OnEpisode, arena: Arena) -> None:
        """See `Model.play`."""
        section = arena.rollout
        collector = Collector(
            arena.make_env,
            self.engine,
            self._chat(section.system_prompt),
            episode_settings(section, arena.temperature, arena.episode_seconds),
            concurrency=section.concurrency,
            env_id=arena.env_id,
        )
        with closing(collector):
            try:
                await collector.stream(jobs, on_episode)
            finally:
                await self.engine.disconnect()


class PolicyModel(Model):
    """A policy, which plays one episode after the other.

    Args:
        policy: Who acts.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    async def play(self, jobs: Iterable[Job], on_episode: OnEpisode, arena: Arena) -> None:
        """See `Model.play`."""
        written, settings, chat = (
            syntax(arena.rollout.syntax),
            episode_settings(arena.rollout, 1.0, arena.episode_seconds),
            ByteChat(),
        )
        env = arena.make_env()
        try:
            for job in jobs:
                trajectory = play(env, self._policy, chat, written, settings, seed=job.seed, task_id=job.task_id)
                trajectory.id, trajectory.group_id, trajectory.env_id = job.id, job.group_id, arena.env_id
                on_episode(trajectory)
                if trajectory.error is not None:
                    # What crashed may be broken for good.
                    env.close()
                    env = arena.make_env()
                # Whoever waits for a limit of time gets a chance.
                await asyncio.sleep(0)
        finally:
            env.close()


@contextmanager
def opened(config: EvalConfig) -> Iterator[Model]:
    """Open the model that a configuration names.

    Raises:
        ConfigError: There is no such kind of model.
        EngineError: The model cannot be loaded, or its server does not answer.
    """
    model = _model(config)
    try:
        yield model
    finally:
        model.close()


def _model(config: EvalConfig) -> Model:
    if config.model in POLICIES:
        return PolicyModel(POLICIES[config.model])
    return _local(config)


def _local(config: EvalConfig) -> Model:
    """Return the model of a folder, of a run, or of a name on the hub."""
    import torch

    from agent_gym.engines.loading import load_model
    from agent_gym.engines.transformers import TransformersEngine

    if config.threads:
        torch.set_num_threads(config.threads)
    model, tokenizer = load_model(str(model_folder(config.model)))
    model.eval()
    engine = TransformersEngine(model, tokenizer, max_batch=config.rollout.concurrency)
    return EngineModel(engine, lambda system_prompt: TemplateChat(tokenizer, system_prompt=system_prompt))


def model_folder(model: str) -> str | Path:
    """Return the last checkpoint where `model` is a run folder, else `model` itself."""
    path = Path(model)
    if (path / "config.yaml").is_file() and (path / "checkpoints").is_dir():
        run = RunFolder.open(path)
        steps = run.checkpoints()
        if not steps:
            raise ConfigError(f"The run {model} has no checkpoint yet: give another run or a model folder.")
        return run.checkpoint_path(steps[-1])
    return model
