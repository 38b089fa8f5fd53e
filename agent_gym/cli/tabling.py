"""Tables that are drawn on a terminal, and plain lines where something else reads them."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_table(console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """Print rows of text; the first column is words, the others are numbers.

    Args:
        console: Where to. A terminal gets a table; a file or a pipe gets a line for each row, in aligned columns.
        headings: Of the columns.
        rows: As many cells each.
        title: Put above.
    """
    if console.is_terminal:
        table = Table(title=escape(title) or None)
        for place, heading in enumerate(headings):
            table.add_column(escape(heading), justify="right" if place else "left")
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
        return
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for line in ([title] if title else []) + [_aligned(row, widths) for row in (headings, *rows)]:
        say(console, line)


def say(console: Console, line: str, style: str | None = None) -> None:
    """Print a line of text as it is, however long."""
    console.print(line, style=style, soft_wrap=True, markup=False, highlight=False)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.rjust(width) if place else cell.ljust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *others]).rstrip()
