"""The command that starts a model's server."""

import sys
from typing import Annotated

import typer

from agent_gym.cli.base import example

app = typer.Typer()


@app.command("serve-model", epilog=example("agent-gym serve-model Qwen/Qwen3-4B --port 8000"))
def serve_model(
    model: Annotated[str, typer.Argument(help="A model folder or hub name: what training begins with.")],
    port: Annotated[int, typer.Option(help="Where to listen.")] = 8000,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    python: Annotated[
        str | None, typer.Option(help="The Python that has vLLM \\[default: the one that runs this command].")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of the weights: auto, float32, bfloat16 or float16.")] = "auto",
    lora_rank: Annotated[int, typer.Option(min=0, help="Load LoRA adapters up to this rank; 0 loads none.")] = 0,
    nccl: Annotated[bool, typer.Option("--nccl", help="Take new weights over NCCL, from GPU to GPU.")] = False,
    trust_network: Annotated[
        bool, typer.Option("--trust-network", help="Let other machines reach it: they can make it run code.")
    ] = False,
    show: Annotated[bool, typer.Option("--print", help="Print the command, and start nothing.")] = False,
    arguments: Annotated[list[str] | None, typer.Argument(help="Further flags of vLLM, after --.")] = None,
) -> None:
    """Start a server of vLLM for `agent-gym train --engine`, with all that training needs of it."""
    from agent_gym.cli.serving_models import run_serve_model

    run_serve_model(
        model,
        python=python or sys.executable,
        host=host,
        port=port,
        dtype=dtype,
        lora_rank=lora_rank,
        nccl=nccl,
        trust_network=trust_network,
        arguments=arguments or [],
        show=show,
    )
