"""What is found out before a run begins or goes on: whether it can, and where it stands."""

import hashlib
import importlib.metadata
import json
import logging
from contextlib import closing
from pathlib import Path
from typing import Any

from agent_gym.config import TrainConfig
from agent_gym.config_files import as_dict, build
from agent_gym.env import TextEnv
from agent_gym.errors import AgentGymError, ConfigError, MissingExtraError, TrainingError
from agent_gym.registry import find_spec, held_out_split, make, resolve
from agent_gym.rollout.actions import syntax
from agent_gym.store.run import RunFolder
from agent_gym.store.tracking import check_trackers
from agent_gym.trainers import deepspeed, sharding
from agent_gym.trainers.policy import Policy
from agent_gym.trainers.presets import make_algorithm
from agent_gym.trainers.processes import Processes

logger = logging.getLogger(__name__)

_FREE = ("tracking", "signals", "engine", "distributed")
"""Sections that a run may be taken up with anew: who is told, what is kept besides, which servers and processes."""


def checked(config: TrainConfig, processes: Processes) -> TrainConfig:
    """Return the configuration of a run with its measured split named, once nothing is found that speaks against it.

    Args:
        config: As it was given.
        processes: Those that train together.

    Raises:
        AgentGymError: Something named in the message cannot be done.
    """
    with processes.together():
        config = with_split(config)
        check(config, tells=processes.is_main)
        shard, by_deepspeed = processes.shards(asked=config.distributed.shard), deepspeed.is_used(processes.accelerator)
        check_spread(config, shard=shard, by_deepspeed=by_deepspeed)
    return config


def check(config: TrainConfig, *, tells: bool = True) -> None:
    """Find what is wrong before a folder is made or a model is loaded.

    Args:
        config: Of the run.
        tells: Whether what is merely doubtful is logged: of many processes one does.

    Raises:
        AgentGymError: Something named in the message cannot be done.
    """
    algorithm = make_algorithm(config.algorithm.name, config.algorithm.options)
    for note in algorithm.notes if tells else ():
        logger.warning(note)
    if tells and config.model.unheeded:
        # No error: a file that was written for the tiny model may be started with another by --model.
        names = ", ".join(config.model.unheeded)
        logger.warning("model.path=%s has sizes of its own: model.%s says nothing of it.", config.model.path, names)
    if tells and config.rollout.max_lag and config.update.importance == "off":
        logger.warning(
            "rollout.max_lag=%d trains on what older weights have sampled, and nothing corrects for it: consider "
            "update.importance=token.",
            config.rollout.max_lag,
        )
    syntax(config.rollout.syntax)
    with closing(make(config.env.id, **config.env.options)) as env:
        split = config.measure.split or env.held_out_split
        if config.measure.tasks and not env.tasks(split):
            raise ConfigError(f"The environment {config.env.id!r} has no tasks in the split {split!r}.")
        algorithm.rollout.check(env)
        if config.rollout.workers == "local":
            _check_installed(config.env.id, env)
    check_trackers(config.tracking)


def _check_installed(env_id: str, env: TextEnv) -> None:
    """Let an environment whose packages are missing say so itself: some notice when their first episode begins.

    Raises:
        MissingExtraError: They are.
    """
    needed = getattr(resolve(find_spec(env_id).entry_point), "requirements", ())
    if all(map(_is_installed, needed)):
        return
    try:
        env.reset(seed=0)
    except MissingExtraError:
        raise
    except Exception:
        # What else is wrong with an episode is told where episodes are played.
        logger.debug("%s cannot begin an episode.", env_id, exc_info=True)


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def check_spread(config: TrainConfig, *, shard: bool, by_deepspeed: bool = False) -> None:
    """Find out whether what is trained can be spread over processes.

    Args:
        config: Of the run.
        shard: Whether it is to be.
        by_deepspeed: Whether DeepSpeed is to do it.

    Raises:
        ConfigError: It is, and it cannot be.
    """
    if not shard:
        return
    algorithm = make_algorithm(config.algorithm.name, config.algorithm.options)
    adapters, critic = config.model.lora is not None, algorithm.critic is not None
    sharding.check(adapters=adapters, critic=critic, reference=algorithm.needs_reference)
    if by_deepspeed:
        deepspeed.check(optimizer=config.update.optimizer, adapters=adapters, critic=critic)


def with_split(config: TrainConfig) -> TrainConfig:
    """Return the configuration with its measured split named: what the environment holds out, where none is."""
    if config.measure.split is not None or not config.measure.tasks:
        return config
    split = held_out_split(config.env.id, config.env.options)
    return config.model_copy(update={"measure": config.measure.model_copy(update={"split": split})})


def existing_run(config: TrainConfig, path: Path) -> RunFolder | None:
    """Return the run in the folder, if there is one and it was started with the same configuration.

    Raises:
        ConfigError: It was started with another.
    """
    if not (path / "config.yaml").is_file():
        return None
    run = RunFolder.open(path)
    stored = run.config
    try:
        # What a run of an older version did not know is as it is by default.
        stored = as_dict(build(TrainConfig, stored))
    except AgentGymError:
        logger.warning("The configuration of %s is not one of this version: it is compared as it is.", path)
    for key, value in as_dict(config).items():
        if key not in _FREE and _settled(stored.get(key)) != _settled(value):
            raise ConfigError(
                f"The run in {path} was started with another {key!r}: resume it with its own configuration, or choose "
                "another --name."
            )
    return run


def _settled(section: Any) -> Any:
    """Return a section without what says where environments live: episodes are the same everywhere."""
    if not isinstance(section, dict):
        return section
    return {key: value for key, value in section.items() if key != "workers" and not key.startswith("ray_")}


def check_equal(policy: Policy, processes: Processes) -> None:
    """Find out whether all processes begin with the same policy.

    Raises:
        TrainingError: They do not.
    """
    if processes.count == 1:
        return
    words = json.dumps(sorted(policy.tokenizer.get_vocab().items())).encode()
    weights = [float(parameter.detach().double().sum()) for parameter in policy.model.parameters()]
    prints = processes.all((hashlib.sha256(words).hexdigest(), weights))
    if any(each != prints[0] for each in prints):
        raise TrainingError(
            "The processes do not begin with the same model and tokenizer: give all machines the same files and the "
            "same versions of what reads them."
        )
