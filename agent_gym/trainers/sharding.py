"""Models spread over processes (FSDP2): sharded in place, and their optimisers' states as if they were whole.

torch's `fully_shard` is used directly, also where `accelerate launch` asks for FSDP: accelerate's own wrapping works on
GPUs alone, this one everywhere. What it is told about types, offloading and resharding is what accelerate was told.
"""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from agent_gym.errors import ConfigError


def shard(module: nn.Module, accelerator: Accelerator) -> None:
    """Spread the parameters of a module over all processes, in place, each layer as a unit.

    Args:
        module: Its forward pass is what gathers the parameters; parts of it must not be called from outside.
        accelerator: Knows the processes, the device, and what FSDP was told.
    """
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    options = _options(accelerator)
    for layer in layers(module):
        fully_shard(layer, mesh=mesh, **options)
    fully_shard(module, mesh=mesh, **options)
    # Buffers follow; they are small, and every process has them whole.
    module.to(accelerator.device)


def check(*, adapters: bool, critic: bool, reference: bool) -> None:
    """Find out whether what an algorithm trains or compares with can be spread over processes.

    Args:
        adapters: Whether the model has LoRA adapters.
        critic: Whether the algorithm has a critic.
        reference: Whether it compares with a reference policy.

    Raises:
        ConfigError: It cannot.
    """
    if adapters and (critic or reference):
        raise ConfigError(
            "A critic or a reference shares the frozen weights of a model with adapters, which cannot be spread over "
            "processes twice: switch distributed.shard or model.lora off."
        )


def layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers of a model: the members of its outermost lists of modules."""
    found: list[nn.Module] = []
    for child in module.children():
        found += list(child) if isinstance(child, nn.ModuleList) else layers(child)
    return [layer for layer in found if any(True for _ in layer.parameters())]


def is_sharded(module: nn.Module) -> bool:
    """Return whether `shard` was called on a module."""
    return isinstance(module, FSDPModule)


def full(value: Any) -> Any:
    """Return a state with every sharded tensor whole, on the CPU; all processes must ask, in the same order."""
    if isinstance(value, DTensor):
        return value.full_tensor().cpu()
    if isinstance(value, Mapping):
        return {key: full(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(full(each) for each in value)
    return value


def spread_like(value: Tensor, parameter: Tensor) -> Tensor:
    """Return a whole tensor as the parameter that it belongs to lies: spread over processes, or as it is."""
    if not isinstance(parameter, DTensor) or isinstance(value, DTensor) or value.shape != parameter.shape:
        return value
    # Every process has all of it, and takes its own part.
    return distribute_tensor(
        value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )


def spread_on_loading(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Let an optimiser take back whole states whatever its parameters lie on; return it."""
    optimizer.register_load_state_dict_pre_hook(_spread_state)
    return optimizer


def _spread_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not any(isinstance(parameter, DTensor) for parameter in parameters):
        return state
    return state | {
        "state": {
            number: {
                name: spread_like(value, parameters[int(number)]) if isinstance(value, Tensor) else value
                for name, value in own.items()
            }
            for number, own in state["state"].items()
        }
    }


def _options(accelerator: Accelerator) -> dict[str, Any]:
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    options: dict[str, Any] = {}
    if accelerator.mixed_precision == "bf16":
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    if plugin is not None:
        if plugin.reshard_after_forward is not None:
            options["reshard_after_forward"] = bool(plugin.reshard_after_forward)
        if plugin.cpu_offload and not isinstance(plugin.cpu_offload, bool):
            options["offload_policy"] = plugin.cpu_offload
        if plugin.mixed_precision_policy is not None:
            options["mp_policy"] = plugin.mixed_precision_policy
    return options
