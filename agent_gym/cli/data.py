"""`agent-gym data`: fetches the data that some environments play on, and lists what is there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Get the data that environments play on.", no_args_is_help=True, rich_markup_mode="rich")

_KNOWN = ("alfworld",)
_INTERRUPTED = 130
"""The exit code of a command that was stopped by Ctrl-C."""


@app.command(epilog="Example:  [bold]agent-gym data get qa/bamboogle[/bold]")
def get(
    name: Annotated[str, typer.Argument(help="Which data: alfworld, or a suite, see agent-gym suites.")],
    version: Annotated[str, typer.Option(help="Its release; with --from or --url, any name for other data.")] = "2.1.3",
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Take it from a file, an archive or a folder instead."),
    ] = None,
    url: Annotated[str | None, typer.Option(help="Download the archive from there instead.")] = None,
    sha256: Annotated[str | None, typer.Option(metavar="HEX", help="Checksum that the archive must have.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
) -> None:
    """Download data, or take it from a file, and make it ready to play on."""
    from agent_gym.envs.alfworld import data
    from agent_gym.errors import ConfigError

    if source is not None and url is not None:
        raise ConfigError("--from and --url exclude each other: leave out one of them.")
    if name not in _KNOWN:
        _get_suite(name, source, url)
        return
    if not force and data.holding(version):
        typer.echo("already there; --force gets it again")
    try:
        with _Bars() as bars:
            kept = data.get_games(version, source=source, url=url, sha256=sha256, force=force, tell=bars.tell)
    except KeyboardInterrupt:
        left = (
            "what has arrived is kept, and the same command goes on from there" if source is None else "nothing changed"
        )
        typer.echo(f"stopped: {left}", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    typer.echo(f"{name} {kept.version}: {sum(kept.counts.values()):,} games ({_listed(kept.counts)})")
    typer.echo(f"digest of the games: {kept.digest}")
    if kept.archive_sha256:
        typer.echo(f"sha256 of {kept.origin}: {kept.archive_sha256}")
    typer.echo(f"{_megabytes(kept.size)} in {kept.path}")


def _get_suite(name: str, source: Path | None, url: str | None) -> None:
    """Get the data of a suite."""
    from agent_gym.errors import UnknownIdError
    from agent_gym.evaluation.suite_data import get_data
    from agent_gym.evaluation.suites import find_suite, suites

    known = {each.name: each for each in suites().values() if each.needs.files}
    if name not in known and not name.endswith((".yaml", ".yml")):
        raise UnknownIdError.of("data", name, [*_KNOWN, *known])
    suite = known.get(name) or find_suite(name)
    if source is not None:
        paths = get_data(suite, source)
    else:
        with _Bars() as bars:
            paths = get_data(suite, None, url=url, tell=bars.tell)
    for path in paths:
        typer.echo(f"{_megabytes(path.stat().st_size)} in {path}")
    more = f" --set env.options.{suite.needs.option}=..." if suite.needs.option else ""
    typer.echo(f"agent-gym eval --suite {suite.name}{more} plays it")


@app.command("list", epilog="Example:  [bold]agent-gym data list[/bold]")
def list_() -> None:
    """List the data that is there."""
    from rich.console import Console
    from rich.table import Table

    from agent_gym.envs.alfworld.data import holdings

    found = holdings()
    if not found:
        typer.echo("nothing is there; agent-gym data get alfworld gets the official ALFWorld games")
        return
    table = Table()
    for heading in ("name", "version", "games", "size", "path"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "size" else "left")
    for kept in found:
        table.add_row("alfworld", kept.version, _listed(kept.counts), _megabytes(kept.size), str(kept.path))
    Console().print(table)


class _Bars:
    """A progress bar for each thing that is going on, drawn on the standard error output."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[far]}"))
        self._progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.stop()

    def tell(self, what: str, done: int, total: int | None) -> None:
        """Draw that `done` of `total` are done of a thing; bytes where it is a download."""
        amount = _megabytes if what == "downloading" else "{:,}".format
        far = amount(done) if total is None else f"{amount(done)} of {amount(total)}"
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total, far=far)
        self._progress.update(self._tasks[what], completed=done, total=total, far=far)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {count:,}" for split, count in counts.items())


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
