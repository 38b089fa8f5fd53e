"""The command line's application, and what its commands have in common."""

from pathlib import Path
from typing import Annotated, Any

import typer

from agent_gym.errors import ConfigError

app = typer.Typer(
    name="agent-gym",
    help="A gym for language-model agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set any key, for example update.learning_rate=1e-5."),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="A YAML file to start from, or a run folder.")
]
EnvId = Annotated[str | None, typer.Option("--env", help="Environment: an id, module:Class or file.py:Class.")]
Option = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Argument of the environment.")]
Runs = Annotated[Path, typer.Option(help="The folder that holds runs.")]
Seed = Annotated[int | None, typer.Option(help="From it every random number follows.")]
Workers = Annotated[
    str | None,
    typer.Option(
        metavar="local|ray|N",
        help="Where environments live; a number: episodes in flight \\[default: local].",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(help="Cluster for --workers ray: 'auto', host:6379 or ray://... \\[default: this machine]."),
]
Track = Annotated[
    list[str] | None,
    typer.Option("--track", help="Also tell the metrics to tensorboard, wandb, mlflow or trackio; can be repeated."),
]


def example(command: str) -> str:
    """Return the line that ends a command's help."""
    return f"Example:  [bold]{command}[/bold]"


def workers_keys(workers: str | None, address: str | None) -> dict[str, Any]:
    """Return what --workers and --ray-address say of the configuration.

    Raises:
        ConfigError: There are no such workers.
    """
    if address is not None and workers is None:
        workers = "ray"
    if workers is None or workers in ("local", "ray"):
        return {"rollout.workers": workers, "rollout.ray_address": address}
    if not workers.isdecimal():
        raise ConfigError(f"--workers is 'local', 'ray' or a number of episodes in flight, not {workers!r}.")
    return {"rollout.concurrency": int(workers), "rollout.ray_address": address}


def merge(overrides: dict[str, Any], assignments: list[str] | None) -> dict[str, Any]:
    """Return the options that were given, with the --set assignments on top."""
    from agent_gym.config_files import parse_overrides

    given = {key: value for key, value in overrides.items() if value is not None}
    return given | parse_overrides(assignments or [])
