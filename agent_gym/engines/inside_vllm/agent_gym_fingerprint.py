"""Sums over all weights of a model, by which whoever hands them over sees that they have arrived. Needs torch alone.

Sums do not care how weights are named, fused, padded with zeros or laid out, which engines do each in their own way.
They are so exact that an update which changes every weight by a millionth of itself shows.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

_PART = {"cpu": 1 << 16}
"""Elements that are held in float64 at once: what a processor's cache has room for."""
_PART_ELSEWHERE = 1 << 24


class WeightSums:
    """Adds up weights as they go by.

    Args:
        dtype: The type that the engine keeps them in; None is the one that they come in.
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        self._dtype = dtype
        self._seen: list[tuple[tuple[Any, ...], int, Tensor, Tensor]] = []
        self.names: list[str] = []
        """Of the weights, in their order."""

    @property
    def tensors(self) -> int:
        """How many have gone by."""
        return len(self.names)

    def passing(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights, each of which has been added up by then."""
        for name, tensor in weights:
            plain = tensor_sums(tensor)
            same = self._dtype in (None, tensor.dtype) or not tensor.is_floating_point()
            cast = plain if same else tensor_sums(tensor, self._dtype)
            self._seen.append(((tensor.data_ptr(), *tensor.shape), tensor.numel(), plain, cast))
            self.names.append(name)
            yield name, tensor
            del tensor

    @property
    def sums(self) -> list[float]:
        """Sum, sum of squares and number of all elements, in the type that they came in."""
        return self._total(cast=False)

    @property
    def cast(self) -> list[float]:
        """The same after each weight was brought to the engine's type."""
        return self._total(cast=True)

    def _total(self, *, cast: bool) -> list[float]:
        total = [0.0, 0.0, 0.0]
        known: set[tuple[Any, ...]] = set()
        for key, count, plain, brought in self._seen:
            values = (brought if cast else plain).tolist()
            # A matrix under two names (an output layer tied to the embedding) is one matrix.
            if len(key) > 2 and (key, *values) in known:
                continue
            known.add((key, *values))
            total = [one + other for one, other in zip(total, [*values, float(count)], strict=True)]
        return total


@torch.no_grad()
def tensor_sums(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return sum and sum of squares (2,) in float64, on the tensor's device.

    Args:
        tensor: Of any shape and type.
        dtype: It is brought to this type first.
    """
    total = torch.zeros(2, dtype=torch.float64, device=tensor.device)
    for part in tensor.detach().reshape(-1).split(_PART.get(tensor.device.type, _PART_ELSEWHERE)):
        exact = part.to(dtype or part.dtype).to(torch.float64)
        total += torch.stack([exact.sum(), exact.square().sum()])
    return total


def model_sums(model: Any) -> list[float]:
    """Return sum, sum of squares and number of all elements of a model's parameters, each of them once."""
    each = [(tensor_sums(parameter), parameter.numel()) for parameter in model.parameters()]
    values = [[*sums.tolist(), float(count)] for sums, count in each]
    return [sum(column) for column in zip(*values, strict=True)]
