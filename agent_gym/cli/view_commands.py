"""The commands that show runs."""

import typer

app = typer.Typer()
