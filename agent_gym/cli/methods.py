"""`agent-gym algorithms`."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agent_gym.cli.docstrings import said_of_arguments
from agent_gym.trainers.presets import BASES, METHODS, Piece, parse, piece
from agent_gym.trainers.recipes import recipe_names


def list_algorithms() -> None:
    """Print a table of the bases and of the methods that go on top of them."""
    table = Table("name", "kind", "what it is", "recipes")
    table.columns[0].style = "bold"
    for name in [*BASES, *METHODS]:
        kind = "base" if name in BASES else "method"
        table.add_row(name, kind, escape(piece(name).summary), ", ".join(recipe_names(name)))
    console = Console()
    console.print(table)
    console.print("Methods go on top of a base (grpo, if none is named), joined by +: --algorithm gigpo+epo+empg")


def describe_algorithm(name: str) -> None:
    """Print the options and recipes of each piece of an algorithm."""
    console = Console(highlight=False)
    for each in parse(name):
        console.print(f"[bold]{escape(each.name)}[/bold]: {escape(each.summary)}")
        console.print(_options(each))
        recipes = recipe_names(each.name)
        if recipes:
            console.print(f"recipes: {', '.join(recipes)}  (agent-gym train --algorithm {each.name} --recipe NAME)")


def _options(each: Piece) -> Table:
    told = said_of_arguments(each.build)
    table = Table("option", "default", "what it does")
    table.columns[0].style = "bold"
    for name, parameter in each.options.items():
        default = "" if parameter.default is parameter.empty else repr(parameter.default)
        table.add_row(name, escape(default), escape(told.get(name, "")))
    return table
