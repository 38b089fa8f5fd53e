"""Models spread over processes by DeepSpeed (ZeRO-3), where `accelerate launch` was told to use it.

DeepSpeed's own engine holds weights, gradients and optimiser, each process a part of them, on the GPU or offloaded.
What it is told about offloading and buckets is what accelerate was told; clipping and types are the run's own.
Checkpoints stay whole: parts are put together one tensor at a time, in the format of all other ways to train.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, DistributedType
from accelerate.utils.deepspeed import map_pytorch_optim_to_deepspeed
from torch import Tensor, nn

from agent_gym.errors import ConfigError, MissingExtraError

_REMEDY = "use distributed.shard=true without DeepSpeed, which spreads a model as ZeRO-3 does"
_MOMENTS = ("exp_avg", "exp_avg_sq")


def plugin() -> DeepSpeedPlugin:
    """Return what accelerate is told about DeepSpeed, from the environment that its launcher has made.

    Raises:
        MissingExtraError: DeepSpeed is not installed.
        ConfigError: Not ZeRO-3 is asked for.
    """
    try:
        import deepspeed  # noqa: F401
    except ImportError as error:
        raise MissingExtraError.of("deepspeed", "An accelerate configuration with DeepSpeed") from error
    told = DeepSpeedPlugin(zero3_init_flag=False)
    if told.zero_stage != 3:
        raise ConfigError(
            f"accelerate was told to use DeepSpeed with zero_stage {told.zero_stage}: only 3 is supported; {_REMEDY}, "
            "or distributed_type MULTI_GPU, which shares nothing."
        )
    return told


def load_whole() -> None:
    """Let transformers make and load models whole: they are probed and copied before they are spread.

    accelerate has told it to spread them from the beginning, whatever its zero3_init_flag says.
    """
    from transformers.integrations import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def is_used(accelerator: Accelerator) -> bool:
    """Return whether accelerate was told to use DeepSpeed."""
    return accelerator.distributed_type is DistributedType.DEEPSPEED


def check(*, optimizer: str, adapters: bool, critic: bool) -> None:
    """Find what of a run does not go with DeepSpeed.

    Args:
        optimizer: Its name.
        adapters: Whether the model has LoRA adapters.
        critic: Whether the algorithm has a critic.

    Raises:
        ConfigError: Something does not.
    """
    for said, what in (
        (optimizer != "adamw", f"update.optimizer={optimizer}"),
        (adapters, "model.lora"),
        (critic, "an algorithm with a critic"),
    ):
        if said:
            raise ConfigError(f"DeepSpeed does not go with {what} here: {_REMEDY}.")


class Spread:
    """A module and its optimiser on all processes.

    Args:
        module: What is trained, in place. Its parameters are empty outside of its forward and backward passes.
        optimizer: AdamW over the trainable parameters, in their order; its settings are taken over.
        accelerator: Knows the processes, the device, and what DeepSpeed was told.

    Raises:
        ConfigError: Mixed precision is asked for, which DeepSpeed does in another way.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> None:
        import deepspeed

        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._masters = [parameter.dtype.itemsize < 4 for parameter in self._parameters]
        told = accelerator.state.deepspeed_plugin.deepspeed_config
        settings = engine_settings(told, accelerator.mixed_precision, {p.dtype for p in module.parameters()})
        if offloads(settings):
            optimizer = map_pytorch_optim_to_deepspeed(optimizer)
        self.module: Any = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)[0]
        self.optimizer = _Stepped(self.module.optimizer)

    def accumulate(self, loss: Tensor, *, last: bool) -> None:
        """Add a micro-batch's gradients; they are exchanged at once, and the optimiser may step after the last one."""
        self.module.set_gradient_accumulation_boundary(last)
        self.module.backward(loss)

    def clip_and_step(self, max_norm: float) -> Tensor:
        """Make the optimiser's step with gradients of at most a norm; return the norm that they had.

        Where it is not finite, DeepSpeed makes no step.
        """
        self.module.optimizer.clip_grad = max_norm
        self.module.step()
        return torch.as_tensor(self.module.get_global_grad_norm())

    def state_dict(self) -> dict[str, Any]:
        """Return the optimiser's state as torch's AdamW has it, whole, on the CPU; all processes must ask."""
        steps = self._states()[0].get("step", 0)
        state = {}
        if steps:
            state = {
                number: {"step": torch.tensor(float(steps)), **{name: self._whole(each, name) for name in _MOMENTS}}
                for number, each in enumerate(self._parameters)
            }
        group = {name: value for name, value in self.optimizer.param_groups[0].items() if name != "params"}
        inner = {"state": state, "param_groups": [group | {"params": list(range(len(self._parameters)))}]}
        copied = [p for p, master in zip(self._parameters, self._masters, strict=True) if master]
        return {"masters": [self._whole(p, None) for p in copied], "inner": inner} if copied else inner

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned, here or of another way to train, on any number of processes."""
        copied = [p for p, master in zip(self._parameters, self._masters, strict=True) if master]
        for parameter, value in zip(copied, state.get("masters", ()), strict=True):
            self._put(parameter, None, value)
        own = state.get("inner", state)["state"]
        if not own:
            return
        self._begin_at(own[0]["step"])
        for number, parameter in enumerate(self._parameters):
            for name in _MOMENTS:
                self._put(parameter, name, own[number][name])

    def _whole(self, parameter: nn.Parameter, name: str | None) -> Tensor:
        """Return all of a parameter's state of a name, or its copy in float32, on the CPU."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        value = safe_get_full_fp32_param(parameter) if name is None else safe_get_full_optimizer_state(parameter, name)
        copied: Tensor = value.detach().to("cpu", copy=True)
        return copied

    def _put(self, parameter: Any, name: str | None, value: Tensor) -> None:
        """Keep this process's part of a whole tensor; the last part is filled up with zeros."""
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        part = own_part(value, int(parameter.ds_tensor.numel()), torch.distributed.get_rank())
        if name is None:
            safe_set_local_fp32_param(parameter, part)
        else:
            safe_set_local_optimizer_state(parameter, part, name)

    def _states(self) -> list[dict[str, Any]]:
        """Return the states of what this process has, several parameters' parts each; empty before the first step."""
        zero = self.module.optimizer
        return [zero.optimizer.state[part] for part in zero.fp32_partitioned_groups_flat]

    def _begin_at(self, steps: Tensor) -> None:
        """Make states that are filled in afterwards: the optimiser itself makes them in its first step."""
        zero = self.module.optimizer
        for part, state in zip(zero.fp32_partitioned_groups_flat, self._states(), strict=True):
            # torch counts in a tensor, DeepSpeed's AdamW on the processor in a number.
            in_tensor = isinstance(zero.optimizer, torch.optim.AdamW)
            state["step"] = steps.clone() if in_tensor else int(steps)
            for name in _MOMENTS:
                state[name] = torch.zeros_like(part, requires_grad=False)


class _Stepped:
    """An optimiser whose step DeepSpeed makes where it clips: for what sets learning rates and clears gradients."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups, whose "lr" may be set."""
        groups: list[dict[str, Any]] = self._inner.param_groups
        return groups

    def zero_grad(self) -> None:
        """Clear the gradients."""
        self._inner.zero_grad()

    def step(self) -> None:
        """Do nothing: `Spread.clip_and_step` has done it."""


def spread_frozen(module: nn.Module, accelerator: Accelerator) -> None:
    """Spread a module that is not trained, in place."""
    import deepspeed

    told = accelerator.state.deepspeed_plugin.deepspeed_config
    settings = engine_settings(told, accelerator.mixed_precision, {p.dtype for p in module.parameters()})
    # Without an optimiser there is nothing to offload of it.
    settings["zero_optimization"].pop("offload_optimizer", None)
    deepspeed.initialize(model=module, config=settings)


def engine_settings(told: Mapping[str, Any], mixed_precision: str, dtypes: set[torch.dtype]) -> dict[str, Any]:
    """Return DeepSpeed's configuration: what accelerate was told, with the run's types and micro-batches.

    Args:
        told: What accelerate was told; values may be "auto".
        mixed_precision: What accelerate was told.
        dtypes: Of the weights.

    Raises:
        ConfigError: Mixed precision is asked for, or the weights are of several types or of 16 bits and not bfloat16.
    """
    if len(dtypes) != 1 or not dtypes <= {torch.float32, torch.bfloat16}:
        named = ", ".join(sorted(map(str, dtypes)))
        raise ConfigError(f"DeepSpeed takes weights in bfloat16 or float32, not {named}: set model.dtype.")
    halved = torch.bfloat16 in dtypes
    if mixed_precision != "no" and not (halved and mixed_precision == "bf16"):
        raise ConfigError(
            f"DeepSpeed does not go with mixed precision ({mixed_precision}) of weights in float32: set "
            "model.dtype=bfloat16, of which it keeps copies in float32, and model.mixed_precision=no."
        )
    settings: dict[str, Any] = _set_only(copy.deepcopy(dict(told)))
    for name in ("train_batch_size", "gradient_clipping", "optimizer", "scheduler", "fp16"):
        settings.pop(name, None)
    return settings | {
        # Micro-batches have any number of rows: only their boundaries count, and these are set by hand.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "bf16": {"enabled": halved},
        "zero_allow_untested_optimizer": True,
    }


def offloads(settings: Mapping[str, Any]) -> bool:
    """Return whether the optimiser's state lies outside of the GPU."""
    device = settings["zero_optimization"].get("offload_optimizer", {}).get("device", "none")
    return device not in (None, "none") and bool(settings.get("zero_force_ds_cpu_optimizer", True))


def own_part(value: Tensor, size: int, rank: int) -> Tensor:
    """Return the part of a whole tensor that a process holds: so many numbers, zeros where the tensor has ended."""
    flat = value.detach().flatten()[rank * size : (rank + 1) * size]
    return torch.nn.functional.pad(flat, (0, size - len(flat)))


def is_part(parameter: Tensor) -> bool:
    """Return whether a parameter is spread by DeepSpeed, and empty where it is not being used."""
    return hasattr(parameter, "ds_id")


def whole(parameter: Tensor) -> Tensor:
    """Return a copy of all of a parameter that is spread by DeepSpeed; all processes must ask."""
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().clone()


def _set_only(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings without those that are left to be guessed ("auto") or are None."""
    return {
        name: _set_only(value) if isinstance(value, dict) else value
        for name, value in settings.items()
        if value is not None and value != "auto"
    }
