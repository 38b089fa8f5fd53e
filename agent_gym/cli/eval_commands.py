"""The commands around evaluation."""

from pathlib import Path
from typing import Annotated

import typer

from agent_gym.cli.base import Assignments, ConfigFile, EnvId, Runs, Seed, example, merge

app = typer.Typer()


@app.command("eval", epilog=example("agent-gym eval --model runs/demo --split valid_unseen --tasks 100"))
def evaluate(
    config: ConfigFile = None,
    env: EnvId = None,
    model: Annotated[str | None, typer.Option(help="A model folder, a run folder, 'expert' or 'random'.")] = None,
    split: Annotated[str | None, typer.Option(help="Which tasks [default: a split held out].")] = None,
    tasks: Annotated[int | None, typer.Option(help="How many of them, spread over the split [default: 100].")] = None,
    attempts: Annotated[int | None, typer.Option(help="Episodes a task [default: 1].")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of sampling; 0 is greedy [default: 1].")] = None,
    seed: Seed = None,
    name: Annotated[str | None, typer.Option(help="Keep the episodes in a run of this name.")] = None,
    runs: Runs = Path("runs"),
    set_: Assignments = None,
) -> None:
    """Measure an agent's success on tasks."""
    from agent_gym.cli.evaluating import run_evaluation

    overrides = {
        "env.id": env,
        "model": model,
        "split": split,
        "tasks": tasks,
        "attempts": attempts,
        "temperature": temperature,
        "seed": seed,
    }
    run_evaluation(config, merge(overrides, set_), name=name, runs=runs)
