"""Where a run's model comes from: a checkpoint, a folder, the hub, or made on the spot."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from agent_gym.config import TrainConfig
from agent_gym.engines.loading import load_model
from agent_gym.engines.tiny import TinySize, make_model, train_tokenizer
from agent_gym.errors import ConfigError
from agent_gym.registry import make
from agent_gym.rollout.actions import syntax
from agent_gym.rollout.chat import TemplateChat
from agent_gym.rollout.seeds import derive_seed
from agent_gym.store.run import RunFolder

_CORPUS_EPISODES = 300


@dataclass(frozen=True, slots=True)
class Policy:
    """What acts: a model, its tokenizer, and the chat between it and an environment."""

    model: PreTrainedModel
    tokenizer: Any
    chat: TemplateChat


def load_policy(config: TrainConfig, run: RunFolder | None = None) -> Policy:
    """Return the policy of the run's last checkpoint, or the one that a new run starts with."""
    steps = run.checkpoints() if run else []
    checkpoint = run.checkpoint_path(steps[-1]) if run and steps else None
    model, tokenizer = make_policy(config, checkpoint)
    return Policy(model, tokenizer, TemplateChat(tokenizer, system_prompt=config.rollout.system_prompt))


def make_policy(config: TrainConfig, checkpoint: Path | None = None) -> tuple[PreTrainedModel, Any]:
    """Return the model and the tokenizer that a run starts, or goes on, with.

    Raises:
        EngineError: The model cannot be loaded.
        ConfigError: The tiny model cannot have this shape.
    """
    if checkpoint is not None:
        return load_model(str(checkpoint))
    if config.model.path != "tiny":
        return load_model(config.model.path)
    section = config.model
    if section.hidden % (2 * section.heads):
        raise ConfigError(f"model.hidden must be a multiple of twice model.heads, not {section.hidden}.")
    tokenizer = train_tokenizer(corpus(config), vocabulary=section.vocabulary)
    size = TinySize(section.hidden, section.layers, section.heads, section.feed_forward, section.context)
    return make_model(tokenizer, size, seed=derive_seed(config.seed, "model")), tokenizer


def corpus(config: TrainConfig) -> list[str]:
    """Return texts of the environment: what it says in demonstrated episodes, and what is answered."""
    env = make(config.env.id, **config.env.options)
    write = syntax(config.rollout.syntax).write
    texts: list[str] = [config.rollout.system_prompt]
    for number in range(_CORPUS_EPISODES):
        seed = derive_seed(config.seed, "corpus", number)
        observation, info = env.reset(seed=seed)
        texts += [observation, f"Goal: {info['goal']}."]
        policy = env.demonstrate(observation, random.Random(seed))
        action = next(policy, None) if policy is not None else None
        ended = False
        while action is not None and not ended:
            observation, _, terminated, truncated, _ = env.step(action)
            texts += [write(action), observation]
            ended = terminated or truncated
            try:
                action = policy.send(observation) if policy is not None and not ended else None
            except StopIteration:
                action = None
    env.close()
    return texts
