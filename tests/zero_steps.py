"""What processes that DeepSpeed spreads a model over make of a few steps; for tests, where it is installed."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from base_rows import groups
from learner_steps import Made, learner

from agent_gym.config import TrainConfig
from agent_gym.config_files import build
from agent_gym.trainers.algorithm import Progress
from agent_gym.trainers.processes import Processes, join
from agent_gym.trainers.trainer import train
from agent_gym.trainers.weights import named_weights

CONFIG = {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}
"""DeepSpeed's configuration: however small a parameter is, each process has a part of it."""


def on_this_rank_by_zero(file: str, plans: Mapping[str, Mapping[str, Any]]) -> dict[str, Made]:
    """Carry out plans on this process of several, as `learner_steps.on_this_rank` does.

    Args:
        file: DeepSpeed's configuration.
        plans: Arguments of the steps, by name.
    """
    _ask(file)
    processes = join(timeout=60)
    return {key: _make(processes=processes, **plan) for key, plan in plans.items()}


def run_by_zero(file: str, values: dict[str, Any], folder: str) -> list[dict[str, Any]]:
    """Make a run on this process of several, and go on with one that there is; return its metrics."""
    _ask(file)
    return train(build(TrainConfig, values), folder, resume=True).metrics


def _ask(file: str) -> None:
    # What `accelerate launch` tells its processes; DeepSpeed looks for a GPU unless it is told.
    os.environ |= {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": file,
        "DS_ACCELERATOR": "cpu",
    }


def _make(
    name: str, processes: Processes, *, steps: Sequence[int] = (0, 1, 2), after: Made | None = None, **settings: Any
) -> Made:
    own = learner(name, processes, after, shard=True, **settings)
    metrics = [own.learn(groups(window=number % 2 == 1), Progress(number, 10)) for number in steps]
    weights = {"model." + key: value.clone() for key, value in named_weights(own.updater.scorer.model)}
    return Made(metrics, {}, weights, own.state_dict(), own.signals)
