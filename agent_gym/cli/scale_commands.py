"""The command that says what a model takes."""

from pathlib import Path
from typing import Annotated

import typer

from agent_gym.cli.base import Assignments, ConfigFile, EnvId, example, merge

app = typer.Typer()


@app.command("plan", epilog=example("agent-gym plan --model Qwen/Qwen2.5-7B-Instruct --gpus 8"))
def plan(
    config: ConfigFile = None,
    model: Annotated[
        str | None, typer.Option(help="A model of the table, or a folder with its config.json; no weights are needed.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs of each node.")] = 1,
    gpu_memory: Annotated[float, typer.Option(min=1, help="GiB of each GPU.")] = 80,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    lora: Annotated[
        int | None, typer.Option(min=1, metavar="RANK", help="Train adapters of this rank, and not the weights.")
    ] = None,
    servers: Annotated[bool, typer.Option("--servers", help="Let vLLM have some GPUs for itself.")] = False,
    env: EnvId = None,
    algorithm: Annotated[str | None, typer.Option(help="For example grpo, epo or gigpo+spear.")] = None,
    recipe: Annotated[str | None, typer.Option(help="The paper's hyper-parameters, for example alfworld.")] = None,
    observation_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens that the environment says a turn, as far as you know.")
    ] = 256,
    turn_share: Annotated[
        float, typer.Option(min=0.01, max=1, help="Tokens generated a turn, as a share of rollout.max_tokens.")
    ] = 0.5,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also write train.yaml and accelerate.yaml into it.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    set_: Assignments = None,
) -> None:
    """Say what training a model takes, and print a configuration that fits; exit code 2 where none does.

    Estimates from the model's shape: nothing is loaded, downloaded or measured.
    """
    from agent_gym.cli.capacity import run_plan
    from agent_gym.trainers.planning import Machines
    from agent_gym.trainers.sizing import GIB
    from agent_gym.trainers.workload import Assumptions

    overrides = {"model.path": model, "model.lora.rank": lora, "env.id": env, "algorithm.name": algorithm}
    run_plan(
        config,
        merge(overrides, set_),
        recipe_name=recipe,
        machines=Machines(gpus, int(gpu_memory * GIB), nodes),
        assumptions=Assumptions(observation_tokens, turn_share),
        servers=servers,
        out=out,
        as_json=json,
    )
