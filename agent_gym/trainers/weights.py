"""The weights of a policy as others load them: whole tensors under Hugging Face's names, adapters merged in.

What pushes weights to an engine, or writes a model folder, takes them from here one tensor at a time, so that a model
is never held twice.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from agent_gym.engines.weights import whole
from agent_gym.errors import TrainingError
from agent_gym.trainers import deepspeed

_BASE = ".base_layer"
"""What peft puts into the names of a layer that it wraps."""


def named_weights(model: PreTrainedModel, *, merged: bool = True) -> Iterator[tuple[str, Tensor]]:
    """Yield name and value of every weight of a model, as in the state dict of the model without adapters.

    Args:
        model: A policy, with LoRA adapters or without; it is not changed. Where it is sharded, every process has to
            iterate along, to the end.
        merged: Add the active adapters to the weights that they adapt; False leaves the base as it is.

    Yields:
        (name, tensor), detached, on the device and in the type of the model's own. A weight with two names (an output
        layer tied to the embedding) comes once, under the first. What is not adapted shares the model's memory: copy
        it before the next optimiser step.

    Raises:
        TrainingError: A layer has adapters of a kind that cannot be merged here.
    """
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        if _inside_adapter(prefix):
            continue
        own = [*module.named_parameters(recurse=False), *_kept_buffers(module)]
        for name, tensor in own:
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            value = _whole(tensor)
            layer = _adapted(model, prefix) if prefix.endswith(_BASE) and name == "weight" and merged else None
            if layer is not None:
                value = _merge(value, layer)
            yield f"{prefix}.{name}".replace(_BASE, "").lstrip("."), value


def merge_adapters(model: PreTrainedModel) -> None:
    """Merge a model's active adapters into its weights and take them out of it, in place; one layer at a time.

    Raises:
        TrainingError: A layer has adapters of a kind that cannot be merged here.
    """
    for name, layer in list(model.named_modules()):
        if not hasattr(layer, "lora_A"):
            continue
        base: Any = layer.base_layer
        base.weight.data = _merge(base.weight.detach(), layer)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, base)
    # transformers' own flag and peft's own note that there are adapters.
    model._hf_peft_config_loaded = False
    del model.peft_config


def _kept_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the buffers that belong to a module's state dict."""
    forgotten = module._non_persistent_buffers_set
    return [(name, value) for name, value in module.named_buffers(recurse=False) if name not in forgotten]


def _inside_adapter(prefix: str) -> bool:
    return any(part.startswith("lora_") for part in prefix.split("."))


def _adapted(model: nn.Module, prefix: str) -> Any:
    """Return peft's layer around the base layer at `prefix`, where an adapter of it is active."""
    layer: Any = model.get_submodule(prefix.removesuffix(_BASE))
    return layer if layer.active_adapters and not layer.disable_adapters else None


@torch.no_grad()
def _merge(weight: Tensor, layer: Any) -> Tensor:
    """Return a weight (out, in) plus what a LoRA layer's active adapters add to it; summed up in float32."""
    total = weight.float()
    for adapter in layer.active_adapters:
        if adapter not in layer.lora_A:
            continue
        if layer.use_dora.get(adapter, False) or not isinstance(layer.lora_A[adapter], nn.Linear):
            raise TrainingError(
                "Only plain LoRA on linear layers can be merged here: adapt linear layers (model.lora.target_modules)."
            )
        down, up = (_whole(part[adapter].weight.detach()).float() for part in (layer.lora_A, layer.lora_B))
        delta = (up @ down) * layer.scaling[adapter]
        total = total + (delta.T if layer.fan_in_fan_out else delta)
    return total.to(weight.dtype)


def _whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor of which each process may hold a part; detached."""
    if deepspeed.is_part(tensor):
        return deepspeed.whole(tensor)
    return whole(tensor.detach())
