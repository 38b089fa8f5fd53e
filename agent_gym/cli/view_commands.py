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
