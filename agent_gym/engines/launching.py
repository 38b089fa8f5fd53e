"""Starting a server of vLLM that a trainer can use: the flags and the environment variables that this takes."""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent_gym.addresses import is_loopback
from agent_gym.errors import EngineError, MissingExtraError

WORKER = "agent_gym_worker.WorkerExtension"
_TOP_LOGPROBS = 20
"""As many as `engine.top_logprobs` asks for by itself."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How a server is started."""

    command: list[str]
    environment: dict[str, str]
    """What is set besides what is there."""
    url: str

    def as_shell(self) -> str:
        """Return a line for a shell, or a script of a cluster's scheduler."""
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*variables, shlex.join(self.command)])


def worker_path() -> Path:
    """Return the folder that has to be on the PYTHONPATH of a server for `WORKER`; it holds that module alone."""
    return Path(__file__).parent / "inside_vllm"


def plan_launch(
    model: str,
    *,
    python: str = sys.executable,
    host: str = "127.0.0.1",
    port: int = 8000,
    dtype: str = "auto",
    lora_rank: int = 0,
    nccl: bool = False,
    trust_network: bool = False,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
) -> Launch:
    """Return how to start a server for training.

    Args:
        model: A folder or hub name.
        python: An interpreter that has vLLM.
        host: Where to listen.
        port: Where to listen.
        dtype: Of the weights.
        lora_rank: Room for adapters up to this rank, which can be swapped; 0 loads none.
        nccl: Take weights over NCCL.
        trust_network: Listen where other machines can reach the server, too: they can make it run code.
        arguments: Further flags of vLLM.
        environment: What is set already.

    Raises:
        EngineError: `host` is not this machine's own, and the network is not trusted.
    """
    if not (trust_network or is_loopback(host)):
        raise EngineError(
            f"A server at {host} can be reached from other machines, and whoever can push weights to it can make it "
            "run code: give --trust-network where nobody else is in that network."
        )
    # The command `vllm` asks for a distribution of that name, which its build for CPUs is not.
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--host", host, "--port", str(port), "--dtype", dtype]
    # Log-probabilities as the tokens were drawn, and as many of them as entropies are estimated from.
    command += ["--logprobs-mode", "processed_logprobs", "--max-logprobs", str(_TOP_LOGPROBS)]
    # Token ids in and out; what the model's own files say of sampling is not for training.
    command += ["--enable-prefix-caching", "--enable-scale-out", "--generation-config", "vllm"]
    command += ["--worker-extension-cls", WORKER]
    path = [str(worker_path()), *filter(None, [environment.get("PYTHONPATH")])]
    variables = {"VLLM_SERVER_DEV_MODE": "1", "PYTHONPATH": os.pathsep.join(path)}
    if "VLLM_CPU_KVCACHE_SPACE" not in environment:
        # GiB; only its build for CPUs reads it, and would take far more.
        variables["VLLM_CPU_KVCACHE_SPACE"] = "2"
    if lora_rank:
        command += ["--enable-lora", "--max-lora-rank", str(lora_rank)]
        variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    if nccl:
        command += ["--weight-transfer-config", '{"backend": "nccl"}']
    return Launch([*command, *arguments], variables, f"http://{_shown(host)}:{port}")


def check_python(python: str) -> None:
    """Make sure that an interpreter has vLLM.

    Raises:
        EngineError: There is no such interpreter.
        MissingExtraError: It has no vLLM.
    """
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{python} cannot be run ({error}): name the Python that has vLLM with --python.") from error
    if done.returncode:
        raise MissingExtraError(
            f"{python} has no vLLM: run pip install 'agent-gym[vllm]' there, or name another one with --python."
        )


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
