"""`agent-gym replay`: stored episodes on a fresh environment."""

from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from agent_gym.evaluation.replay import replay_run
from agent_gym.store.run import RunFolder


def run_replay(path: Path, *, episode: str | None, phase: str | None, count: int) -> None:
    """Replay episodes, print the differences, and exit with code 1 where there are any."""
    console = Console(highlight=False)
    done = turns = different = 0
    with console.status("replaying") as status:
        for result in replay_run(RunFolder.open(path), episode, phase=phase, count=count):
            done, turns = done + 1, turns + result.turns
            status.update(f"replaying: {done} episodes, {different} differ")
            if result.divergence is None:
                continue
            different += 1
            difference = result.divergence
            console.print(f"[bold]{escape(result.episode)}[/bold] (task {escape(result.task_id)})", end=" ")
            console.print(f"differs at turn {difference.turn} in its {difference.what}:")
            console.print(escape(difference.diff()) + "\n")
    console.print(f"{done} episodes, {turns} turns: {different or 'none'} differ")
    if different:
        raise typer.Exit(1)
