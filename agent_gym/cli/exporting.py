"""`agent-gym export` and `agent-gym import`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from agent_gym.errors import ConfigError
from agent_gym.evaluation.exchange.archives import Limits
from agent_gym.evaluation.exchange.exporting import FORMATS, Format, export
from agent_gym.evaluation.exchange.importing import import_file
from agent_gym.evaluation.exchange.reading import Selection
from agent_gym.store.trajectories import TrajectoryStore


def run_export(run: Path, kind: str, out: Path | None, selection: Selection, *, messages: bool, tokens: bool) -> None:
    """Write a run's episodes and print where."""
    chosen = _format(kind)
    database = run / "trajectories.sqlite"
    count = 0
    if database.is_file():
        with TrajectoryStore.reading(database) as store:
            count = store.count_matching(selection.filter)
    with _counted("export", count) as heard:
        written = export(run, chosen, out, selection=selection, messages=messages, tokens=tokens, on_episode=heard)
    for each in written:
        typer.echo(f"{each.path}: {each.episodes} episode{'s' * (each.episodes != 1)}")
    if chosen == "inspect":
        typer.echo(f"Look at them: inspect view start --log-dir {written[0].path.parent}")


def run_import(file: Path, run: Path, *, scorer: str | None, suite: str | None, max_mib: int) -> None:
    """Make a run of a file and print what it holds."""
    with _counted("import", None) as heard:
        made = import_file(
            file, run, scorer=scorer, suite=suite, limits=Limits(member=max_mib * 2**20), on_episode=heard
        )
    names = ", ".join(name for name in made.suites if name)
    typer.echo(f"{made.path}: {made.episodes} episodes of {made.model}{' on ' + names if names else ''}")


def _format(kind: str) -> Format:
    if kind not in FORMATS:
        raise ConfigError(f"There is no format {kind!r}: choose {', '.join(FORMATS)}.")
    return kind  # type: ignore[return-value]


@contextmanager
def _counted(what: str, count: int | None) -> Iterator[Callable[[Any], None]]:
    """Show a bar on a terminal while episodes are told of."""
    console = Console(stderr=True)
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task(what, total=count)
        yield lambda _: bars.advance(bar)
