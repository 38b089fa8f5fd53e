"""Playing tasks with a model, and summing up."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from agent_gym.config import EvalConfig, as_dict
from agent_gym.engines.base import Engine
from agent_gym.env import TextEnv
from agent_gym.errors import ConfigError
from agent_gym.registry import make
from agent_gym.rollout.actions import Syntax, syntax
from agent_gym.rollout.chat import ByteChat, Chat, TemplateChat
from agent_gym.rollout.collect import Collector, Job
from agent_gym.rollout.episode import episode_settings
from agent_gym.rollout.score import Score, score
from agent_gym.rollout.seeds import derive_seed
from agent_gym.store.run import RunFolder
from agent_gym.trajectory import Trajectory, Turn

OnEpisode = Callable[[Trajectory], None]

POLICIES = ("expert", "random")
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
    env = make(config.env.id, **{**config.env.options, "split": config.split})
    count = min(config.tasks, len(env.tasks(config.split)))
    if count == 0:
        raise ConfigError(f"The environment {config.env.id!r} has no tasks in the split {config.split!r}.")
    task_ids = [env.tasks(config.split)[index].id for index in range(count)]
    env.close()
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


def _play_with_model(config: EvalConfig, jobs: list[Job], on_episode: OnEpisode | None) -> list[Trajectory]:
    engine, chat = _engine(config)
    section = config.rollout
    settings = episode_settings(section, config.temperature)
    collector = Collector(
        lambda: _make(config), engine, chat, settings, concurrency=section.concurrency, env_id=config.env.id
    )
    trajectories = asyncio.run(collector.play(jobs, on_episode))
    collector.close()
    return trajectories


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
    env = _make(config)
    parsed = syntax(config.rollout.syntax)
    trajectories = []
    for job in jobs:
        trajectory = _play_one(env, parsed, job, random_actions=config.model == "random")
        trajectory = replace(trajectory, id=job.id, group_id=job.group_id, env_id=config.env.id)
        trajectories.append(trajectory)
        if on_episode is not None:
            on_episode(trajectory)
    env.close()
    return trajectories


def _play_one(env: TextEnv, parsed: Syntax, job: Job, *, random_actions: bool) -> Trajectory:
    """Play an episode with the environment's demonstrator, or with admissible actions drawn at random."""
    rng = random.Random(job.seed)
    chat = ByteChat()
    observation, info = env.reset(seed=job.seed, options={"task": job.task_id})
    trajectory = Trajectory(task_id=info["task_id"], goal=info["goal"], seed=job.seed)
    trajectory.append_context(chat.begin(observation))
    policy = None if random_actions else env.demonstrate(observation, rng)
    if policy is None and not random_actions:
        raise ConfigError(f"{type(env).__name__} has no demonstrator: choose another --model.")
    action = next(policy, None) if policy else _random_action(info["admissible_actions"], rng)
    while action is not None:
        text = parsed.write(action)
        answer = chat.answer(text)
        start = len(trajectory.token_ids)
        trajectory.append_action(answer, [0.0] * len(answer), [0.0] * len(answer))
        turn = Turn(observation, text, action, start, len(trajectory.token_ids))
        trajectory.turns.append(turn)
        observation, turn.reward, terminated, truncated, info = env.step(action)
        turn.invalid_action = info["invalid_action"]
        trajectory.success, trajectory.score = info["success"], info["score"]
        trajectory.terminated, trajectory.truncated = terminated, truncated
        if terminated or truncated:
            trajectory.final_observation = observation
            break
        trajectory.append_context(chat.extend(observation, ended=True))
        try:
            action = policy.send(observation) if policy else _random_action(info["admissible_actions"], rng)
        except StopIteration:
            break
    return trajectory


def _random_action(admissible: list[str] | None, rng: random.Random) -> str:
    if not admissible:
        raise ConfigError("This environment does not list its admissible actions: --model random needs them.")
    return rng.choice(admissible)


def _make(config: EvalConfig) -> TextEnv:
    return make(config.env.id, **{**config.env.options, "split": config.split})
