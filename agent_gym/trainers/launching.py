"""How a run is started on several GPUs: the configuration that `accelerate launch` takes, and the command."""

from typing import Any

from agent_gym.config import TrainConfig
from agent_gym.config_files import merged
from agent_gym.trainers.planning import Plan
from agent_gym.trainers.sizing import Sharding


def accelerate_config(sharding: Sharding, *, gpus: int, nodes: int = 1) -> dict[str, Any]:
    """Return what goes into the file after `accelerate launch --config_file`.

    Args:
        sharding: What the GPUs share.
        gpus: On each node.
        nodes: Machines.
    """
    values: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "FSDP" if sharding != "none" else "MULTI_GPU" if gpus * nodes > 1 else "NO",
        # The run's own configuration says so: model.dtype, model.mixed_precision.
        "mixed_precision": "no",
        "num_machines": nodes,
        "num_processes": gpus * nodes,
        "main_training_function": "main",
        "use_cpu": False,
    }
    if sharding != "none":
        values["fsdp_config"] = {
            "fsdp_version": 2,
            "fsdp_reshard_after_forward": True,
            "fsdp_offload_params": sharding == "fsdp2-offload",
            # The run's own configuration says so: model.gradient_checkpointing.
            "fsdp_activation_checkpointing": False,
        }
    return values


def launch_command(file: str, config: str, *, gpus: int, nodes: int = 1) -> str:
    """Return the command that starts a run; on several nodes it is given on each of them.

    Args:
        file: The configuration for accelerate.
        config: That of the run.
        gpus: On each node.
        nodes: Machines.
    """
    if gpus * nodes == 1:
        return f"agent-gym train --config {config}"
    where = ""
    if nodes > 1:
        where = " --machine_rank $NODE_RANK --main_process_ip $HEAD_NODE --main_process_port 29500"
    return f"accelerate launch --config_file {file}{where} -m agent_gym train --config {config}"


def planned_config(config: TrainConfig, plan: Plan) -> dict[str, Any]:
    """Return what was set of a configuration, with what a plan adds: values for YAML, which `train --config` takes."""
    setup, cache = plan.setup, plan.cache
    model: dict[str, Any] = {
        "path": config.model.path,
        "dtype": setup.dtype,
        "gradient_checkpointing": setup.checkpointing,
    }
    if plan.server_gpus:
        urls = [f"http://{host}:{port}" for host, port, _ in _places(plan)]
        engine: dict[str, Any] = {"kind": "server", "urls": urls}
        if plan.machines.nodes > 1:
            engine["trust_network"] = True
    else:
        engine = {"kind": "vllm", "memory_share": cache.share, "tensor_parallel": cache.tensor_parallel, "sleep": True}
        length = longest_sequence(config, plan)
        if length < setup.shape.context:
            # vLLM begins only where one sequence of this length fits.
            engine["vllm"] = {"max_model_len": length}
    changes: dict[str, Any] = {
        "model": model,
        "engine": engine,
        "update": {"micro_batch_tokens": setup.micro_batch_tokens},
    }
    if setup.sharding != "none":
        changes["distributed"] = {"shard": True}
    return merged(config.model_dump(mode="json", exclude_unset=True), changes)


def longest_sequence(config: TrainConfig, plan: Plan) -> int:
    """Return the tokens of the longest sequence that vLLM must hold: an episode's limit, as far as there is room."""
    context = plan.setup.shape.context
    return min(config.rollout.max_episode_tokens or context, context, plan.cache.tokens)


def server_commands(config: TrainConfig, plan: Plan) -> list[str]:
    """Return the commands that start vLLM's servers, each on the machine that its comment names; none without any."""
    if not plan.server_gpus:
        return []
    size, share = plan.cache.tensor_parallel, plan.cache.share
    lora = "" if plan.setup.lora_rank is None else f" --lora-rank {plan.setup.lora_rank}"
    length, model = longest_sequence(config, plan), config.model.path
    network = " --host 0.0.0.0 --trust-network" if plan.machines.nodes > 1 else ""
    return [
        f"CUDA_VISIBLE_DEVICES={','.join(map(str, gpus))} agent-gym serve-model {model} --port {port} --nccl"
        f"{lora}{network} -- --tensor-parallel-size {size} --gpu-memory-utilization {share:g} --max-model-len {length}"
        f"  # on {host}"
        for host, port, gpus in _places(plan)
    ]


def _places(plan: Plan) -> list[tuple[str, int, list[int]]]:
    """Return host, port and GPUs of each server; the last GPUs of a node, or the last nodes, sample."""
    machines, size = plan.machines, plan.cache.tensor_parallel
    each = min(plan.server_gpus, machines.gpus)
    nodes = max(1, plan.server_gpus // machines.gpus) if machines.nodes > 1 else 1
    places = []
    for node in range(machines.nodes - nodes, machines.nodes):
        host = "127.0.0.1" if machines.nodes == 1 else f"node-{node}"
        for number in range(each // size):
            first = machines.gpus - each + number * size
            places.append((host, 8000 + number, list(range(first, first + size))))
    return places
