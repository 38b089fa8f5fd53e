"""Playing tasks with a model, and summing up."""

import asyncio
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from agent_gym.config import EvalConfig, as_dict
from agent_gym.engines.base import Engine
from agent_gym.env import TextEnv
from agent_gym.errors import ConfigError
from agent_gym.registry import held_out_split, make
from agent_gym.rollout.actions import syntax
from agent_gym.rollout.chat import ByteChat, Chat, TemplateChat
from agent_gym.rollout.collect import Collector, Job
from agent_gym.rollout.episode import episode_settings
from agent_gym.rollout.player import Policy, act_at_random, follow_demonstrator, play
from agent_gym.rollout.score import Score, score
from agent_gym.rollout.seeds import derive_seed
from agent_gym.store.run import RunFolder
from agent_gym.trajectory import Trajectory

OnEpisode = Callable[[Trajectory], None]

POLICIES: dict[str, Policy] = {"expert": follow_demonstrator, "random": act_at_random}
"""Players that need no model."""


def evaluate(config: EvalConfig, folder: str | Path | None = None, *, on_episode: OnEpisode | None = None) -> Score:
    """Play tasks of a split and return the score.

    Args:
        config: What to play, and with whom.
        folder: Where episodes and metrics are kept; None keeps nothing.
        on_episode: Called as each episode ends.

    Raises:
        AgentGymError: The model, the environment or the split is not there, or the folder cannot be written.
    """
    config = with_split(config)
    task_ids = _spread_tasks(config)
    run = RunFolder.create(Path(folder), as_dict(config)) if folder is not None else None
    jobs = [
        Job(f"eval/{index}/{attempt}", f"eval/{index}", task_id, derive_seed(config.seed, index, attempt))
        for index, task_id in enumerate(task_ids)
        for attempt in range(config.attempts)
    ]
    if config.model in POLICIES:
        trajectories = _play_with_policy(config, jobs, on_episode)
    else:
        trajectories = _play_with_model(config, jobs, on_episode)
    summary = score(trajectories)
    if run is not None:
        with run.trajectories() as store:
            store.add(trajectories, step=0, phase="eval")
        run.log({"phase": "eval", "step": 0, "split": config.split, **summary.as_dict()})
    return summary


def with_split(config: EvalConfig) -> EvalConfig:
    """Return the configuration with its split named: what the environment holds out, where none is."""
    if config.split is not None:
        return config
    return config.model_copy(update={"split": held_out_split(config.env.id, config.env.options)})


def _spread_tasks(config: EvalConfig) -> list[str]:
    """Return ids of tasks, spread over the whole split: environments list their tasks kind after kind."""
    with closing(_make(config)) as env:
        tasks = env.tasks(env.split)
        count = min(config.tasks, len(tasks))
        if count == 0:
            raise ConfigError(f"The environment {config.env.id!r} has no tasks in the split {config.split!r}.")
        return [tasks[index * len(tasks) // count].id for index in range(count)]


def _play_with_model(config: EvalConfig, jobs: list[Job], on_episode: OnEpisode | None) -> list[Trajectory]:
    engine, chat = _engine(config)
    section = config.rollout
    settings = episode_settings(section, config.temperature)
    collector = Collector(
        lambda: _make(config), engine, chat, settings, concurrency=section.concurrency, env_id=config.env.id
    )
    with closing(collector):
        return asyncio.run(collector.play(jobs, on_episode))


def _engine(config: EvalConfig) -> tuple[Engine, Chat]:
    import torch

    from agent_gym.engines.loading import load_model
    from agent_gym.engines.transformers import TransformersEngine

    if config.threads:
        torch.set_num_threads(config.threads)
    model, tokenizer = load_model(str(model_folder(config.model)))
    model.eval()
    engine = TransformersEngine(model, tokenizer, max_batch=config.rollout.concurrency)
    return engine, TemplateChat(tokenizer, system_prompt=config.rollout.system_prompt)


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


def _play_with_policy(config: EvalConfig, jobs: list[Job], on_episode: OnEpisode | None) -> list[Trajectory]:
    """Play the jobs one after the other, without a model."""
    parsed, settings, chat = syntax(config.rollout.syntax), episode_settings(config.rollout, 1.0), ByteChat()
    env = _make(config)
    trajectories = []
    for job in jobs:
        trajectory = play(env, POLICIES[config.model], chat, parsed, settings, seed=job.seed, task_id=job.task_id)
        trajectory.id, trajectory.group_id, trajectory.env_id = job.id, job.group_id, config.env.id
        trajectories.append(trajectory)
        if on_episode is not None:
            on_episode(trajectory)
        if trajectory.error is not None:
            # What crashed may be broken for good.
            env.close()
            env = _make(config)
    env.close()
    return trajectories


def _make(config: EvalConfig) -> TextEnv:
    return make(config.env.id, **{**config.env.options, "split": config.split})
