"""New weights into a model that is already there, one tensor at a time."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from agent_gym.errors import EngineError


@torch.no_grad()
def copy_weights(model: nn.Module, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Copy tensors into the parameters and buffers of a model.

    Args:
        model: Its weights are overwritten; those under several names (tied ones) are given once or more often.
        weights: Names as in `model.state_dict()`, and full tensors of the same shapes; converted to the model's type.

    Raises:
        EngineError: A name is unknown, a shape differs, or weights are missing; some may have been copied by then.
    """
    own = model.state_dict()
    given: set[int] = set()
    for name, tensor in weights:
        if name not in own:
            raise EngineError(f"The new weights do not fit the engine's model: it has no {name!r}.")
        if own[name].shape != tensor.shape:
            raise EngineError(
                f"The new weights do not fit the engine's model: {name!r} has the shape {tuple(tensor.shape)}, not "
                f"{tuple(own[name].shape)}."
            )
        own[name].copy_(tensor)
        given.add(own[name].data_ptr())
    missing = [name for name, tensor in own.items() if tensor.data_ptr() not in given]
    if missing:
        raise EngineError(
            f"The new weights do not fit the engine's model: {len(missing)} are missing, {missing[0]!r} among them."
        )


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor of which each process may hold a part; then every process has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def weight_names(model: nn.Module) -> frozenset[str]:
    """Return the names under which all of a trainer's model is handed over, one for each parameter.

    They are those of the model without adapters; of a parameter with two names (an output layer tied to the embedding)
    the first.
    """
    names = (name for name, _ in model.named_parameters())
    return frozenset(name.replace(".base_layer.", ".") for name in names if ".lora_" not in name)


def complete(weights: Iterable[tuple[str, Tensor]], names: frozenset[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield weights as they come, and find out at their end whether they were all.

    Args:
        weights: Names and tensors.
        names: Those that must be among them, see `weight_names`.

    Raises:
        EngineError: Some are missing.
    """
    given = set()
    for name, tensor in weights:
        given.add(name)
        yield name, tensor
    missing = sorted(names - given)
    if missing:
        raise EngineError(f"The new weights are not all: {len(missing)} are missing, {missing[0]!r} among them.")
