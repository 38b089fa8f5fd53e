"""The bars that training and evaluation draw on a terminal, with the time left."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def progress(console: Console, *, width: int = 0, shown: bool = True) -> Progress:
    """Return bars whose tasks have a field `note`; they draw nothing where there is no terminal.

    Args:
        console: Where to draw.
        width: Characters that a title takes at least.
        shown: False draws nothing on a terminal, too.
    """
    return Progress(
        TextColumn(f"[bold]{{task.description:<{width}}}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not (shown and console.is_terminal),
    )
