"""The commands that show runs."""

from pathlib import Path
from typing import Annotated

import typer

from agent_gym.cli.base import example

app = typer.Typer()


ViewedRuns = Annotated[list[Path], typer.Argument(help="Run folders, or folders that hold some.")]


@app.command(epilog=example("agent-gym view runs/demo runs/other --open"))
def view(
    runs: ViewedRuns,
    host: Annotated[
        str, typer.Option(help="Where to listen. What other machines can reach needs a token, which is printed.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Likewise; 0 takes a free one.")] = 8777,
    token: Annotated[
        str | None, typer.Option(envvar="AGENT_GYM_VIEW_TOKEN", help="What visitors need; made up where one is needed.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Look into runs in a browser: curves, groups, episodes turn by turn, evaluations and how they differ.

    A run may be training meanwhile: the page follows. For one on another machine, forward the port there with
    ssh -L 8777:localhost:8777 MACHINE.
    """
    from agent_gym.cli.viewing import run_view

    run_view(runs, host=host, port=port, token=token, open_page=open_)


@app.command(epilog=example("agent-gym report runs/demo --out demo.html"))
def report(
    runs: ViewedRuns,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file \\[default: report.html in the first run's folder].")
    ] = None,
    episodes: Annotated[int, typer.Option(min=0, help="Episodes that it holds, at most, over all runs.")] = 100,
) -> None:
    """Write runs as one HTML file that opens without a server and without a network.

    It holds the page of agent-gym view with the curves, the tables, the newest groups and a selection of episodes, and
    says what it leaves out.
    """
    from agent_gym.cli.viewing import run_report

    run_report(runs, out=out, episodes=episodes)


@app.command("runs", epilog=example("agent-gym runs runs"))
def list_runs(
    folder: Annotated[Path, typer.Argument(help="A folder that holds runs.")] = Path("runs"),
    count: Annotated[int, typer.Option(help="At most so many; -1 lists all.")] = 30,
) -> None:
    """List runs, those first that were written to last: how far each is, and how it went."""
    from agent_gym.cli.listing_runs import run_listing

    run_listing(folder, count=count)
