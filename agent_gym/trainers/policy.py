"""Where a run's model comes from: a checkpoint, a folder, the hub, or made on the spot."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from agent_gym.config import TrainConfig
from agent_gym.engines.adapters import BASE_FOLDER, add_adapters, has_adapters, name_base, named_base
from agent_gym.engines.loading import load_model
from agent_gym.engines.scripted import END, ByteTokenizer
from agent_gym.engines.tiny import TinySize, make_model, train_tokenizer
from agent_gym.env import Info, TextEnv
from agent_gym.errors import ConfigError
from agent_gym.rollout.actions import syntax
from agent_gym.rollout.chat import ByteChat, TemplateChat
from agent_gym.rollout.episode import episode_settings
from agent_gym.rollout.player import Moves, act_at_random, play
from agent_gym.rollout.player import Policy as TextPolicy
from agent_gym.rollout.seeds import derive_seed
from agent_gym.store.atomic import new_folder
from agent_gym.store.run import RunFolder
from agent_gym.trainers.warmstart import Demonstrator, demonstration_env, demonstration_settings
from agent_gym.trainers.weights import named_weights
from agent_gym.trajectory import Trajectory

_CORPUS_EPISODES = 300
_SLOW_CORPUS_EPISODES = 30
"""Of an environment that waits for another process, and may have to make each game first."""


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
    section = config.model
    path = str(checkpoint) if checkpoint is not None else section.path
    if path == "tiny":
        model, tokenizer = _make_tiny(config)
    else:
        model, tokenizer = load_model(path, dtype=section.dtype, attention=section.attention, trainable=True)
    if section.lora is not None and not has_adapters(model):
        base = None if path == "tiny" else path
        add_adapters(model, section.lora, base=base, seed=derive_seed(config.seed, "lora"))
    elif section.lora is None and has_adapters(model):
        raise ConfigError(
            f"{path} holds an adapter: train it on with model.lora, or merge it into its model first (agent-gym merge)."
        )
    if section.gradient_checkpointing:
        recompute_activations(model)
    return model, tokenizer


def recompute_activations(model: PreTrainedModel) -> None:
    """Let a model compute activations again in the backward pass, and keep few of them until then."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _make_tiny(config: TrainConfig) -> tuple[PreTrainedModel, Any]:
    """Return the small model that is made on the spot."""
    section = config.model
    if section.hidden % (2 * section.heads):
        raise ConfigError(f"model.hidden must be a multiple of twice model.heads, not {section.hidden}.")
    tokenizer = train_tokenizer(corpus(config), vocabulary=section.vocabulary)
    size = TinySize(section.hidden, section.layers, section.heads, section.feed_forward, section.context)
    model: PreTrainedModel = make_model(tokenizer, size, seed=derive_seed(config.seed, "model"))
    if section.attention != "auto":
        model.set_attn_implementation(section.attention)
    if section.dtype == "bfloat16":
        # Not its buffers: loaded from a checkpoint, it has the frequencies of its positions in float32.
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16()
        model.config.dtype = torch.bfloat16
    return model, tokenizer


def keep_base(policy: Policy, run: RunFolder) -> None:
    """Write the base of a policy's adapters into the run, where it lies nowhere else; checkpoints hold adapters alone.

    Raises:
        StoreError: It cannot be written.
    """
    if not has_adapters(policy.model) or named_base(policy.model) is not None:
        return
    path = run.path / BASE_FOLDER
    with new_folder(path) as folder:
        policy.model.config.save_pretrained(folder)
        policy.model.generation_config.save_pretrained(folder)
        policy.tokenizer.save_pretrained(folder)
        weights = {name: value.contiguous() for name, value in named_weights(policy.model, merged=False)}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    name_base(policy.model, str(path))


def corpus(config: TrainConfig, episodes: int | None = None) -> list[str]:
    """Return what the environment says and is answered in demonstrated episodes, detours included.

    Args:
        config: Of the run.
        episodes: How many; by default as many as a tokenizer takes to learn from.
    """
    env = demonstration_env(config)
    policy = _whoever_can(Demonstrator(demonstration_settings(config.warm_start)))
    chat, parsed, settings = ByteChat(), syntax(config.rollout.syntax), episode_settings(config.rollout, 1.0)
    texts = [config.rollout.system_prompt]
    for number in range(episodes or (_SLOW_CORPUS_EPISODES if env.blocking else _CORPUS_EPISODES)):
        seed = derive_seed(config.seed, "corpus", number)
        trajectory = play(env, policy, chat, parsed, settings, seed=seed)
        texts += [f"Goal: {trajectory.goal}.", trajectory.final_observation, *_said(trajectory)]
    env.close()
    return texts


def _whoever_can(demonstrator: TextPolicy) -> TextPolicy:
    """Return a policy for any environment: the demonstrator, else chance, else nobody (who reads the beginning)."""

    def policy(env: TextEnv, observation: str, info: Info, rng: random.Random) -> Moves:
        if env.demonstrate(observation, random.Random(0)) is not None:
            yield from demonstrator(env, observation, info, rng)
        elif info["admissible_actions"]:
            yield from act_at_random(env, observation, info, rng)

    return policy


def _said(trajectory: Trajectory) -> Iterator[str]:
    """Return what was said on each side in an episode of `ByteChat`."""
    for ended, token_ids in groupby(trajectory.token_ids, lambda token: token == END):
        if not ended:
            yield ByteTokenizer().decode(list(token_ids))
