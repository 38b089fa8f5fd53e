"""`agent-gym serve-model`: a server of vLLM that training can use."""

import os
from collections.abc import Sequence

import typer

from agent_gym.engines.launching import check_python, plan_launch


def run_serve_model(
    model: str,
    *,
    python: str,
    host: str,
    port: int,
    dtype: str,
    lora_rank: int,
    nccl: bool,
    trust_network: bool,
    arguments: Sequence[str],
    show: bool,
) -> None:
    """Become a server of vLLM, or print how to start one.

    Args:
        model: See `plan_launch`, as for what is not named here.
        python: An interpreter that has vLLM.
        host: Where to listen.
        port: Where to listen.
        dtype: Of the weights.
        lora_rank: Of adapters.
        nccl: Whether weights come over NCCL.
        trust_network: Whether other machines may reach it.
        arguments: Further flags of vLLM.
        show: Print the command, and start nothing.

    Raises:
        EngineError: It cannot be started like this.
        MissingExtraError: There is no vLLM.
    """
    launch = plan_launch(
        model,
        python=python,
        host=host,
        port=port,
        dtype=dtype,
        lora_rank=lora_rank,
        nccl=nccl,
        trust_network=trust_network,
        arguments=arguments,
    )
    if show:
        typer.echo(launch.as_shell())
        return
    check_python(python)
    typer.echo(f"starting vLLM with {model} at {launch.url}; it answers after a minute or so:")
    typer.echo(f"  agent-gym train --model {model} --engine {launch.url}")
    # Signals and the exit code are vLLM's own from here on.
    os.execvpe(launch.command[0], launch.command, {**os.environ, **launch.environment})
