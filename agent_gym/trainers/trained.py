"""A module and its optimiser on the processes that train it: copied to each (DDP), or spread (FSDP2, ZeRO-3).

Losses count the rows of all processes, so that the sum of the processes' gradients is the gradient; whatever averages
gradients instead is given losses that are larger by the number of processes.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from agent_gym.engines.weights import whole
from agent_gym.errors import ConfigError, TrainingError
from agent_gym.trainers import deepspeed, sharding
from agent_gym.trainers.processes import Processes


class Trained:
    """Wraps a module for training.

    Args:
        module: What is trained, in place. Its forward pass must be called through `module` of this object.
        make_optimizer: Makes the optimiser of a module's parameters as they are then.
        processes: Those that train together.
        shard: Spread it over the processes.

    Raises:
        ConfigError: accelerate was told to use something that is not supported.
    """

    def __init__(
        self,
        module: nn.Module,
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        processes: Processes,
        *,
        shard: bool = False,
    ) -> None:
        self.processes = processes
        self.plain: Any = module
        """The module without what exchanges gradients: for scoring, on one process alone unless it is sharded."""
        self.sharded = shard
        self.zero: deepspeed.Spread | None = None
        """What spreads it where DeepSpeed does."""
        self._met: TrainingError | None = None
        self.module: Any
        self.optimizer: Any
        accelerator = processes.accelerator
        kind = accelerator.distributed_type
        if kind not in _KINDS:
            raise ConfigError(
                f"accelerate was told to use {kind.value}, which is not supported: use a configuration for several "
                "GPUs, and distributed.shard=true to spread the model over them."
            )
        if shard and deepspeed.is_used(accelerator):
            self.zero = deepspeed.Spread(module, make_optimizer(module), accelerator)
            self.module, self.optimizer = self.zero.module, self.zero.optimizer
        elif shard:
            sharding.shard(module, accelerator)
            self.module, self.optimizer = module, make_optimizer(module)
        elif kind in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            # accelerate would spread what it prepares.
            self.module = _copied(module.to(accelerator.device), accelerator.device)
            self.optimizer = make_optimizer(module)
        else:
            self.module, self.optimizer = accelerator.prepare(module, make_optimizer(module))

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add to the gradients.

        Args:
            loss: Of this process; its weights count the rows of all.
            last: Whether gradients are exchanged now: with the last micro-batch of an update alone.
        """
        # DDP, FSDP and DeepSpeed average gradients over processes.
        loss = loss * self.processes.count
        if self.zero is not None:
            self.zero.accumulate(loss, last=last)
        elif deepspeed.is_used(self.processes.accelerator):
            # accelerate would ask DeepSpeed, which does not have this module.
            loss.backward()
        else:
            if self.sharded:
                self.module.set_requires_gradient_sync(last)
            self.processes.accelerator.backward(loss)

    def spared(self, output: Tensor, loss: Callable[[], Tensor]) -> Tensor:
        """Return a loss of a module's output; one without weight where it cannot be computed.

        The other processes wait for this one in the backward pass, and in those of later micro-batches: what it has
        met is kept until `agree`. A process that trains alone raises it at once.
        """
        try:
            return loss()
        except TrainingError as error:
            if self.processes.count == 1:
                raise
            self._met = self._met or error
            return output.sum() * 0

    def agree(self) -> None:
        """Raise on every process what one of them has met in a loss; to be called by all, before weights change."""
        met, self._met = self._met, None
        self.processes.agree(met)

    def forwarding(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Return what a forward pass and its backward pass run in, see `backward`."""
        if last or not isinstance(self.module, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.module.no_sync()

    def clip(self, max_norm: float) -> Tensor:
        """Scale gradients down to a norm; return the norm that they had. DeepSpeed steps at once where it is finite."""
        if self.zero is not None:
            return self.zero.clip_and_step(max_norm)
        if not self.sharded and not deepspeed.is_used(self.processes.accelerator):
            norm: Tensor = self.processes.accelerator.clip_grad_norm_(self.module.parameters(), max_norm)
            return norm
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), max_norm)
        return whole(norm)

    def settle(self) -> None:
        """Give back what a forward pass without gradients has gathered of a sharded module."""
        if self.sharded and self.zero is None:
            self.module.reshard()

    def state_dict(self) -> dict[str, Any]:
        """Return the optimiser's state, whole whatever it lies on; all processes must ask."""
        if self.zero is not None:
            return self.zero.state_dict()
        state: dict[str, Any] = self.optimizer.state_dict()
        return sharding.full(state) if self.sharded else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned, on any number of processes."""
        (self.zero or self.optimizer).load_state_dict(state)


_KINDS = {
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.MULTI_XPU,
    DistributedType.MULTI_NPU,
    DistributedType.MULTI_HPU,
    DistributedType.FSDP,
    DistributedType.DEEPSPEED,
}


def _copied(module: nn.Module, device: torch.device) -> DistributedDataParallel:
    return DistributedDataParallel(
        module, device_ids=None if device.type == "cpu" else [device], broadcast_buffers=False
    )
