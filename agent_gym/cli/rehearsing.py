"""`agent-gym train --dry-run`: what would be run, and what came of one step with a tiny model."""

from dataclasses import replace

import yaml
from rich.console import Console

from agent_gym.cli.tabling import say
from agent_gym.config import TrainConfig
from agent_gym.config_files import as_dict
from agent_gym.trainers.rehearsal import Rehearsal, rehearse
from agent_gym.trainers.sizing import GIB, Setup, training_parts

_MANY = 8
"""GPUs for which memory is told besides one."""


def run_rehearsal(console: Console, config: TrainConfig) -> None:
    """Print the configuration with all its defaults, rehearse it, and print what was found.

    Raises:
        AgentGymError: The run could not be.
    """
    say(console, yaml.safe_dump(as_dict(config), sort_keys=False).rstrip())
    found = rehearse(config)
    for note in found.notes:
        say(console, f"note: {note}")
    for lack in found.missing:
        say(console, f"not on this machine: {lack}")
    _print_rehearsal(console, found)
    _print_run(console, found)
    say(console, "dry run: nothing was written. Weights, servers and GPUs were not tried.")


def _print_rehearsal(console: Console, found: Rehearsal) -> None:
    result, played = found.result, found.played
    options = played.env.options if found.stand_in else None
    instead = f" (tasks of its own, {options}, stand in for those of the run)" if options is not None else ""
    say(
        console,
        f"one step with a tiny model: {result.episodes} episodes of {played.env.id}{instead}, {result.turns:.1f} turns "
        f"each, {played.rollout.max_tokens} tokens a turn at most, {result.failed} failed; every other episode counted "
        "as solved, so that there was something to learn",
    )
    names = ("loss", "grad_norm", "updates", "mismatch_max")
    told = ", ".join(f"{name} {found.metrics[name]:.4g}" for name in names if name in found.metrics)
    say(console, f"its update: {told}")


def _print_run(console: Console, found: Rehearsal) -> None:
    config, work = found.config, found.work
    say(
        console,
        f"would be run: {config.steps:,} steps of {work.episodes:,} episodes ({config.rollout.tasks} tasks x "
        f"{work.episodes // config.rollout.tasks}), at most {work.turns} turns and {work.longest_row:,} tokens a row; "
        f"about {work.expected_generated:,} generated and {work.expected_trained:,} trained tokens a step where all "
        f"turns are played (at most {work.most_generated:,} generated)",
    )
    if found.setup is None:
        return
    one, many = found.setup, replace(found.setup, gpus=_MANY, sharding="fsdp2")
    say(
        console,
        f"memory of the update, estimated: {_memory(one)} GiB on one GPU, {_memory(many)} GiB on each of {_MANY} that "
        "share weights, gradients and optimiser (agent-gym plan says more)",
    )


def _memory(setup: Setup) -> str:
    return f"{sum(training_parts(setup).values()) / GIB:.1f}"
