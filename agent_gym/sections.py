"""The sections of a configuration: what training and evaluation are told, and what each number means.

Every field carries its sentence directly below it. A key that does not exist is refused with the nearest one that
does, so that no option is ever silently without effect.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of all sections: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class EnvSection(Section):
    """Which environment, and how it is made."""

    id: str = "alfworld"
    """A registered id, "module:Class" or "file.py:Class"."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of its constructor."""


class ModelSection(Section):
    """Which model acts."""

    path: str = "tiny"
    """A folder or name of a Hugging Face causal model, or "tiny": a small one made on the spot."""
    hidden: int = Field(128, ge=8)
    """Width of the tiny model."""
    layers: int = Field(3, ge=1)
    """Layers of the tiny model."""
    heads: int = Field(4, ge=1)
    """Attention heads of the tiny model."""
    feed_forward: int = Field(640, ge=8)
    """Width of the tiny model's feed-forward layers."""
    context: int = Field(2048, ge=64)
    """Longest sequence of the tiny model, in tokens."""
    vocabulary: int = Field(1024, ge=300)
    """Tokens of the tiny model's tokenizer, at most."""


class WarmStartSection(Section):
    """Behaviour cloning before reinforcement learning."""

    episodes: int = Field(0, ge=0)
    """Demonstrations that are played; 0 leaves the warm start out."""
    epochs: int = Field(1, ge=1)
    """Passes over them."""
    batch_size: int = Field(4, ge=1)
    """Episodes an optimiser step."""
    optimizer: Literal["adamw", "muon"] = "muon"
    """Muon learns faster where weights begin at random; AdamW is right for pre-trained models."""
    learning_rate: float = Field(4e-3, gt=0)
    """Peak of the schedule."""
    observation_weight: float = Field(0.1, ge=0)
    """Weight of the loss on what the agent reads."""
    mistakes: float = Field(0.0, ge=0, lt=1)
    """Share of turns that the demonstrator spends on an action that does not work; these are not cloned."""
    distractions: list[str] = Field(default_factory=list)
    """Actions that the demonstrator puts in because it is in no hurry, such as looking around; these are cloned."""
    distracted: float = Field(0.0, ge=0, lt=1)
    """Share of turns that go to distractions."""
    env_options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the environment that differ for demonstrations: a larger turn limit, say."""


class RolloutSection(Section):
    """How episodes are played."""

    tasks: int = Field(16, ge=1)
    """Groups a step."""
    concurrency: int = Field(128, ge=1)
    """Episodes in flight."""
    max_tokens: int = Field(16, ge=1)
    """Tokens a turn."""
    max_episode_tokens: int | None = Field(None, ge=1)
    """Tokens an episode; by default the model's context."""
    temperature: float = Field(1.0, gt=0)
    """Of sampling in training."""
    syntax: str = "plain"
    """How actions are written: "plain" or "tagged"."""
    system_prompt: str = ""
    """Put before the first observation."""
    show_admissible: bool = False
    """Append the admissible actions to each observation."""
    restate_goal: bool = False
    """Append the goal to each observation after the first."""
    layout: Literal["trajectory", "turn"] = "trajectory"
    """"trajectory": the prompt grows by appending, and an episode is one row of training (ARPO, AEPO). "turn": each
    turn has a prompt of its own that shows the last turns, and is a row of its own (EPO, GiGPO, SPEAR on ALFWorld)."""
    window: int = Field(2, ge=0)
    """Earlier turns that a prompt of the layout "turn" shows."""


class AlgorithmSection(Section):
    """What is optimised."""

    name: str = "grpo"
    """A preset, see `agent_gym.trainers.presets`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the preset."""


class UpdateSection(Section):
    """How a batch becomes optimiser steps."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """Which optimiser."""
    learning_rate: float = Field(1e-6, gt=0)
    """At the start; see `final_learning_rate`."""
    final_learning_rate: float = Field(1.0, ge=0, le=1)
    """The learning rate falls to this share of itself over the run."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How it falls."""
    warmup: float = Field(0.0, ge=0, lt=1)
    """Share of the run in which the learning rate rises first."""
    updates_per_step: int = Field(1, ge=1)
    """Mini-batches that a step's batch is cut into."""
    mini_batch_rows: int | None = Field(None, ge=1)
    """Instead: how many rows a mini-batch has, at most."""
    micro_batch_tokens: int = Field(4096, ge=1)
    """Tokens that go through the model at once."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    weight_decay: float = Field(0.0, ge=0)
    """Of the optimiser."""
    share_prefixes: bool = False
    """Compute once what the trajectories of a group begin with in common: same gradients, fewer tokens."""


class MeasureSection(Section):
    """When and on what success is measured during training."""

    split: str | None = None
    """Tasks of this split are never trained on; by default one that the environment holds out, such as valid_unseen."""
    tasks: int = Field(200, ge=0)
    """Tasks at the start and at the end; 0 leaves measuring out."""
    every: int = Field(0, ge=0)
    """Also measure after so many steps; 0 does not."""
    interim_tasks: int = Field(50, ge=1)
    """Tasks of the measurements in between."""
    temperature: float = Field(1.0, ge=0)
    """Of sampling when measuring."""
