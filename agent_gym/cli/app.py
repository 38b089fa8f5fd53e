"""The commands and their options; those around evaluation and viewing stand in files of their own."""

import logging
import os
from pathlib import Path
from typing import Annotated

import typer

import agent_gym
from agent_gym.cli import eval_commands, model_commands, scale_commands, view_commands
from agent_gym.cli.base import (
    Assignments,
    ConfigFile,
    EnvId,
    Option,
    RayAddress,
    Runs,
    Seed,
    Track,
    Workers,
    app,
    example,
    merge,
    workers_keys,
)
from agent_gym.cli.data import app as data_app

__all__ = ["app"]

app.add_typer(data_app, name="data")
app.add_typer(scale_commands.app)
app.add_typer(eval_commands.app)
app.add_typer(model_commands.app)
app.add_typer(view_commands.app)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens.")] = False,
) -> None:
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(name)s: %(message)s")
    for handler in logging.root.handlers:
        handler.setLevel(logging.root.level)  # Some packages set a level of their own on their loggers (bm25s).
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "info" if verbose else "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if version:
        typer.echo(agent_gym.__version__)
        raise typer.Exit


@app.command(epilog=example("agent-gym train --config examples/household.yaml --seed 1 --name demo"))
def train(
    config: ConfigFile = None,
    env: EnvId = None,
    algorithm: Annotated[str | None, typer.Option(help="For example grpo, epo or gigpo+spear.")] = None,
    recipe: Annotated[str | None, typer.Option(help="The paper's hyper-parameters, for example alfworld.")] = None,
    model: Annotated[str | None, typer.Option(help="A model folder or hub name, or 'tiny'.")] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="What samples: 'transformers', 'vllm' or servers of vLLM, http://host:8000\\[,http://...] "
            "\\[default: transformers]."
        ),
    ] = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    seed: Seed = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; one is made up if not given.")] = None,
    runs: Runs = Path("runs"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run of that name, if there is one.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Build everything but the model, make one step with a tiny one, write nothing."),
    ] = False,
    track: Track = None,
    set_: Assignments = None,
) -> None:
    """Train an agent in an environment."""
    from agent_gym.cli.training import engine_keys, run_training

    overrides = {
        "env.id": env,
        "algorithm.name": algorithm,
        "model.path": model,
        **engine_keys(engine),
        **workers_keys(workers, ray_address),
        "steps": steps,
        "seed": seed,
        "tracking": track,
    }
    run_training(
        config,
        merge(overrides, set_),
        recipe_name=recipe,
        name=name,
        runs=runs,
        resume=resume,
        dry_run=dry_run,
    )


@app.command("merge", epilog=example("agent-gym merge runs/lora --to models/agent"))
def merge_model(
    model: Annotated[str, typer.Argument(metavar="RUN", help="A run that trained LoRA, or a folder with an adapter.")],
    to: Annotated[Path, typer.Option(help="The folder to write; it must not exist.")],
    dtype: Annotated[str, typer.Option(help="Of the weights: auto (that of the base), float32 or bfloat16.")] = "auto",
) -> None:
    """Write an adapter and its base as one plain model folder."""
    from agent_gym.cli.merging import run_merge

    typer.echo(run_merge(model, to, dtype=dtype))


@app.command(epilog=example("agent-gym play alfworld --option size=tiny --seed 3"))
def play(
    env: Annotated[str, typer.Argument(help="Environment: an id, module:Class or file.py:Class.")] = "alfworld",
    task: Annotated[str | None, typer.Option(help="Id of the task; otherwise the seed chooses.")] = None,
    seed: Seed = None,
    option: Option = None,
) -> None:
    """Play an environment yourself; ? lists what you can do, Ctrl-D ends."""
    from agent_gym.cli.playing import run_play
    from agent_gym.config_files import parse_overrides

    run_play(env, parse_overrides(option or []), task=task, seed=seed)


@app.command(epilog=example("agent-gym check my_env.py:MyEnv --option size=3"))
def check(
    env: Annotated[str, typer.Argument(help="Environment: an id, module:Class or file.py:Class.")],
    option: Option = None,
    only: Annotated[str | None, typer.Option(help="Run only the check of this name.")] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Hold it to this manifest; by default to the one beside its module, if any."),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="After the checks passed, write or renew the manifest: what it says today."),
    ] = None,
) -> None:
    """Check that an environment does what every environment must; exit code 1 where it does not.

    One that may take the process down is checked in a process of its own: --option worker=process.
    """
    from agent_gym.cli.checking import run_checks
    from agent_gym.config_files import parse_overrides

    run_checks(env, parse_overrides(option or []), only=only, manifest=manifest, record=record)


@app.command("serve-tools", epilog=example("agent-gym serve-tools calculator my_tools.py:lookup"))
def serve_tools(
    tools: Annotated[list[str], typer.Argument(help="Names (calculator, python ...), module:name or file.py:name.")],
    http: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Serve over HTTP; by default over standard streams.")
    ] = None,
    token: Annotated[
        str | None, typer.Option(envvar="AGENT_GYM_TOKEN", help="What clients must send as a bearer token; for --http.")
    ] = None,
    name: Annotated[str, typer.Option(help="What the server calls itself.")] = "agent-gym",
) -> None:
    """Offer tools to other programs, over the Model Context Protocol."""
    from agent_gym.cli.serving import run_serve

    run_serve(tools, http=http, token=token, name=name)


@app.command(epilog=example("agent-gym envs alfworld"))
def envs(env: Annotated[str | None, typer.Argument(help="Describe this one: its options and splits.")] = None) -> None:
    """List the environments, or describe one."""
    from agent_gym.cli.showing import describe_env, list_envs

    list_envs() if env is None else describe_env(env)


@app.command(epilog=example("agent-gym algorithms epo"))
def algorithms(
    algorithm: Annotated[str | None, typer.Argument(help="Describe this one: its options and recipes.")] = None,
) -> None:
    """List the algorithms, or describe one."""
    from agent_gym.cli.methods import describe_algorithm, list_algorithms

    list_algorithms() if algorithm is None else describe_algorithm(algorithm)


@app.command(epilog=example("agent-gym keys update"))
def keys(
    part: Annotated[str | None, typer.Argument(help="Only those of this section, such as update.")] = None,
    evaluation: Annotated[bool, typer.Option("--eval", help="Those of agent-gym eval.")] = False,
) -> None:
    """List what a configuration may say, or --set: each key with its default and its meaning."""
    from agent_gym.cli.keys import list_keys

    list_keys(part, evaluation=evaluation)


@app.command(epilog=example("agent-gym doctor --image python:3.11-slim"))
def doctor(
    image: Annotated[str | None, typer.Option(envvar="AGENT_GYM_IMAGE", help="An image to try Docker with.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what works on this machine; exit code 1 where untrusted code cannot be isolated."""
    from agent_gym.cli.doctoring import run_doctor

    run_doctor(image=image, as_json=json)


Folder = Annotated[Path, typer.Option(help="Where to write it.")]
new = typer.Typer(help="Begin an environment or a tool of your own.", no_args_is_help=True)
app.add_typer(new, name="new")


@new.command("env", epilog=example("agent-gym new env my_env"))
def new_env(name: Annotated[str, typer.Argument(help="Name of the module.")], folder: Folder = Path()) -> None:
    """Write an environment that works, and its tests."""
    from agent_gym.cli.scaffolding import make_environment

    make_environment(name, folder)


@new.command("tool", epilog=example("agent-gym new tool my_tool"))
def new_tool(name: Annotated[str, typer.Argument(help="Name of the module.")], folder: Folder = Path()) -> None:
    """Write a tool that works, and its tests."""
    from agent_gym.cli.scaffolding import make_tool

    make_tool(name, folder)


@app.command(epilog=example("agent-gym show runs/demo --phase after --failures"))
def show(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    episode: Annotated[str | None, typer.Option(help="Id of one episode.")] = None,
    phase: Annotated[str | None, typer.Option(help="Only episodes of this phase: before, train, after, eval.")] = None,
    step: Annotated[int | None, typer.Option(help="Only episodes of this step.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 3,
    failures: Annotated[bool, typer.Option("--failures", help="Only episodes without success.")] = False,
) -> None:
    """Print episodes of a run, the newest first."""
    from agent_gym.cli.showing import show_run

    show_run(run, episode=episode, phase=phase, step=step, count=count, failures=failures)


@app.command(epilog=example("agent-gym replay runs/demo --phase after"))
def replay(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    episode: Annotated[str | None, typer.Argument(help="Id of one episode; all of them if not given.")] = None,
    phase: Annotated[str | None, typer.Option(help="Only episodes of this phase.")] = None,
    count: Annotated[int, typer.Option(help="At most so many, the newest first; -1 is all.")] = -1,
) -> None:
    """Play stored actions on a fresh environment; exit code 1 where anything differs."""
    from agent_gym.cli.replaying import run_replay

    run_replay(run, episode=episode, phase=phase, count=count)
