"""`agent-gym plan`: what a model takes in training, and a configuration that fits."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from agent_gym.cli.tabling import print_table, say
from agent_gym.cli.training import with_recipe
from agent_gym.config import TrainConfig
from agent_gym.config_files import load
from agent_gym.errors import ConfigError
from agent_gym.trainers.launching import accelerate_config, launch_command, planned_config, server_commands
from agent_gym.trainers.planning import HEADROOM, Machines, NoPlan, Plan, make_plan
from agent_gym.trainers.sizing import GIB, Setup, activations, kv_bytes
from agent_gym.trainers.workload import Assumptions, Workload

_SHARDING = {
    "none": "each GPU has all of it (DDP)",
    "fsdp2": "the GPUs share weights, gradients and optimiser (FSDP2)",
    "fsdp2-offload": "the GPUs share weights, gradients and optimiser, which the machine's memory holds (FSDP2, slow)",
}
ESTIMATED = "Estimates from shapes, not measured on a GPU: leave room, and lower update.micro_batch_tokens first."
_DEFAULTS: dict[str, Any] = {
    "rollout": {"max_tokens": 512, "max_episode_tokens": 8192, "syntax": "tagged", "show_admissible": True},
}
"""What is planned for where neither a file nor a recipe says what is done: ALFWorld with a pre-trained model."""


def run_plan(
    path: Path | None,
    overrides: dict[str, Any],
    *,
    recipe_name: str | None,
    machines: Machines,
    assumptions: Assumptions,
    servers: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Print what training takes and a configuration that fits; write it, too, where a folder is given.

    Raises:
        ConfigError: The configuration cannot be, or nothing fits.
    """
    base, overrides = with_recipe(overrides, recipe_name)
    if path is None and recipe_name is None:
        base = _DEFAULTS
    config = load(TrainConfig, path, overrides, base=base)
    if config.model.path == TrainConfig().model.path:
        raise ConfigError(
            "There is no model to plan for: give --model, for example Qwen/Qwen2.5-7B-Instruct, or model.path in the "
            "configuration; the tiny model fits anywhere."
        )
    plan = make_plan(config, machines, assumptions, servers=servers)
    console = Console()
    if as_json:
        console.print_json(json.dumps(_as_dict(config, plan)))
    elif isinstance(plan, Plan):
        _print_plan(console, config, plan, assumptions)
    if isinstance(plan, NoPlan):
        if not as_json:
            _print_parts(console, plan.setup, plan.update, {}, machines)
        remedies = "; or ".join(plan.remedies) or "none of what was tried: LoRA, more GPUs, shorter episodes"
        raise ConfigError(f"Nothing fits. {' '.join(plan.reasons)} What would: {remedies}.")
    if out is not None:
        _write(out, config, plan)
        say(console, f"written: {out / 'train.yaml'}, {out / 'accelerate.yaml'}")


def _print_plan(console: Console, config: TrainConfig, plan: Plan, assumptions: Assumptions) -> None:
    setup, machines = plan.setup, plan.machines
    shape = setup.shape
    say(
        console,
        f"{config.model.path}: {shape.parameters:,} parameters, {shape.layers} layers, context {shape.context:,}",
    )
    where = f"{machines.nodes} x {machines.gpus}" if machines.nodes > 1 else str(machines.gpus)
    say(
        console,
        f"{where} GPU{'s' * (machines.total > 1)} of {machines.memory / GIB:g} GiB: {_SHARDING[setup.sharding]}",
    )
    _print_parts(console, setup, plan.update, plan.sampling, machines)
    _print_engine(console, plan)
    if plan.host_memory:
        say(console, f"they take {plan.host_memory / GIB:.0f} GiB of each node's own memory")
    _print_work(console, plan.work, assumptions)
    say(console, f"# train.yaml. {ESTIMATED}")
    say(console, yaml.safe_dump(planned_config(config, plan), sort_keys=False).rstrip())
    if machines.total > 1:
        say(console, "# accelerate.yaml")
        say(console, yaml.safe_dump(_accelerate(plan), sort_keys=False).rstrip())
    say(console, "# how it is started")
    for command in server_commands(config, plan):
        say(console, command)
    say(console, _launch(plan))


def _print_parts(
    console: Console, setup: Setup, update: dict[str, int], sampling: dict[str, int], machines: Machines
) -> None:
    """Print what each part takes on one GPU; the activations both ways."""
    rows = [[name, _gib(size), _gib(sampling.get(name, 0)) if sampling else ""] for name, size in update.items()]
    rows.append(["together", _gib(sum(update.values())), _gib(sum(sampling.values())) if sampling else ""])
    title = f"GiB on each GPU that trains, of {HEADROOM * machines.memory / GIB:.0f} to be planned with"
    print_table(console, ["part", "update", "while sampling"], rows, title=title)
    other = activations(
        setup.shape, setup.micro_batch_tokens, element=setup.element, checkpointing=not setup.checkpointing
    )
    say(
        console,
        f"activations of {setup.micro_batch_tokens:,} tokens, {'with' if setup.checkpointing else 'without'} gradient "
        f"checkpointing; {'without' if setup.checkpointing else 'with'} it {_gib(other)} GiB",
    )


def _print_engine(console: Console, plan: Plan) -> None:
    cache, shape = plan.cache, plan.setup.shape
    place = (
        f"servers on {plan.server_gpus} GPUs of their own" if plan.server_gpus else "on the GPUs that train, in turn"
    )
    say(
        console,
        f"vLLM {place}: {plan.engines} cop{'ies' if plan.engines > 1 else 'y'} of the model, each on "
        f"{cache.tensor_parallel} GPU{'s' * (cache.tensor_parallel > 1)}, {cache.share:.0%} of its memory: weights "
        f"{_gib(cache.weights)} GiB, keys and values {_gib(cache.kv)} GiB ({cache.tokens:,} tokens at "
        f"{kv_bytes(shape, 1, element=2) / 1024:.0f} KiB; {plan.full_episodes} episodes of {plan.work.longest_row:,} "
        "tokens at once in all)",
    )


def _print_work(console: Console, work: Workload, assumptions: Assumptions) -> None:
    say(
        console,
        f"a step: {work.episodes:,} episodes of at most {work.turns} turns, {work.rows:,} rows of at most "
        f"{work.longest_row:,} tokens; generated at most {work.most_generated:,} tokens. Expected, if all turns are "
        f"played, {assumptions.turn_share:.0%} of rollout.max_tokens are used and the environment says "
        f"{assumptions.observation_tokens} tokens a turn: {work.expected_generated:,} generated, "
        f"{work.expected_trained:,} through the update",
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"


def _as_dict(config: TrainConfig, plan: Plan | NoPlan) -> dict[str, Any]:
    """Return everything as plain values; sizes are bytes."""
    setup = asdict(plan.setup) | {"parameters": plan.setup.shape.parameters}
    common = {
        "measured": False,
        "fits": isinstance(plan, Plan),
        "machines": asdict(plan.machines),
        "setup": setup,
        "work": asdict(plan.work),
        "update": plan.update,
    }
    if isinstance(plan, NoPlan):
        return common | {"reasons": plan.reasons, "remedies": plan.remedies}
    return common | {
        "sampling": plan.sampling,
        "cache": asdict(plan.cache),
        "server_gpus": plan.server_gpus,
        "host_memory": plan.host_memory,
        "config": planned_config(config, plan),
        "accelerate": _accelerate(plan),
        "servers": server_commands(config, plan),
        "launch": _launch(plan),
    }


def _training_nodes(plan: Plan) -> int:
    return max(1, plan.setup.gpus // plan.machines.gpus)


def _launch(plan: Plan) -> str:
    nodes = _training_nodes(plan)
    return launch_command("accelerate.yaml", "train.yaml", gpus=plan.setup.gpus // nodes, nodes=nodes)


def _accelerate(plan: Plan) -> dict[str, Any]:
    nodes = _training_nodes(plan)
    return accelerate_config(plan.setup.sharding, gpus=plan.setup.gpus // nodes, nodes=nodes)


def _write(folder: Path, config: TrainConfig, plan: Plan) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(planned_config(config, plan), sort_keys=False)
    (folder / "train.yaml").write_text(f"# {ESTIMATED}\n{text}", encoding="utf-8")
    (folder / "accelerate.yaml").write_text(yaml.safe_dump(_accelerate(plan), sort_keys=False), encoding="utf-8")
