"""Log-probabilities and entropies straight from hidden states: the logits of a large vocabulary are never all there.

The output layer runs over a few hundred tokens at a time. Where its weight is frozen (LoRA), the gradients of the
hidden states are formed along the way, since each token's are linear in the one number that comes back for it. Where
the weight is trained, what comes back has to be known first, so that the logits of each part are computed once more
backwards, without a graph: one matrix product more than keeping them, and a few passes over a part's logits instead of
the dozen that automatic differentiation takes. The gradient of a weight of 16 bits is summed up in float32, for a part
of the vocabulary after the other: for all of it at once, the sums would be twice the gradient.

The idea of going on to gradients within the forward pass is that of Liger Kernel (Hsu et al., 2024, section 3.2);
the entropy and its gradient are added here.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor

from agent_gym.trainers.deepspeed import is_part

BLOCK_ELEMENTS = 1 << 25
"""Of a gradient of 16 bits: so many are summed up in float32 at once."""


def token_scores(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    rows: int = 256,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """Score tokens under softmax((hidden @ weight.T + bias) / temperature).

    Logits are multiplied in the type of autocast, where that is on, else in the weight's; what follows is float32.

    Args:
        hidden: (N, D) what predicts each token.
        weight: (V, D) of the output layer.
        bias: (V,) of the output layer, if it has one.
        targets: (N,) the tokens.
        temperature: Logits are divided by it.
        rows: Tokens whose logits are held at once.
        entropy_gradient: Let gradient flow through the entropies too.

    Returns:
        Log-probabilities (N,) and entropies (N,) in nats.
    """
    kind = hidden.device.type
    computed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    with torch.autocast(kind, enabled=False):
        inputs = (hidden.to(computed), weight.to(computed), None if bias is None else bias.to(computed))
        logprobs, entropies = _TokenScores.apply(*inputs, targets, temperature, rows, entropy_gradient)
    return logprobs, entropies if entropy_gradient else entropies.detach()


def can_fuse(head: nn.Module) -> bool:
    """Return whether an output layer is a linear one and nothing besides: no adapter, no quantization, no shards."""
    return type(head) is nn.Linear and not isinstance(head.weight, DTensor) and not is_part(head.weight)


class _TokenScores(torch.autograd.Function):
    """See `token_scores`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        rows: int,
        entropy_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        """Score part after part; with a frozen output layer keep what each token's hidden state would change."""
        head_is_trained = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        ahead = ctx.needs_input_grad[0] and not head_is_trained
        layer = _Layer(weight, bias, temperature, min(rows, len(hidden)))
        scores: list[tuple[Tensor, ...]] = []
        for part, target in zip(hidden.split(rows), targets.split(rows), strict=True):
            logs, probabilities, normalizer = layer.distribution(part)
            entropy = -_dots(probabilities, logs)
            scored: tuple[Tensor, ...] = (logs.gather(1, target.unsqueeze(1)).squeeze(1), entropy)
            if not ahead:
                scored += (normalizer,)
            else:
                bent = logs.add_(entropy.unsqueeze(1)).mul_(probabilities) if entropy_gradient else None
                # Before anything is rounded: of a token that is nearly certain, a probability of 8 bits leaves nothing.
                change = probabilities.neg_()
                change.scatter_add_(1, target.unsqueeze(1), torch.ones_like(change[:, :1]))
                scored += (change.to(weight.dtype) @ weight / temperature,)
                if bent is not None:
                    scored += (bent.to(weight.dtype) @ weight / -temperature,)
            scores.append(scored)
        logprobs, entropies, *kept = (torch.cat(parts) for parts in zip(*scores, strict=True))
        ctx.settings = (temperature, rows, entropy_gradient, ahead)
        ctx.save_for_backward(*(kept if ahead else (hidden, weight, bias, targets, entropies, *kept)))
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_logprob: Tensor, by_entropy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of hidden states, weight and bias."""
        temperature, rows, entropy_gradient, ahead = ctx.settings
        if ahead:
            slope, *bent = ctx.saved_tensors
            gradient = by_logprob.unsqueeze(1).to(slope.dtype) * slope
            if entropy_gradient:
                gradient += by_entropy.unsqueeze(1).to(slope.dtype) * bent[0]
            return gradient, None, None, None, None, None, None
        hidden, weight, bias, targets, entropies, normalizers = ctx.saved_tensors
        gradients = _Gradients(hidden, weight, bias, needed=ctx.needs_input_grad[:3])
        size = min(_block(weight), len(weight))
        layer = _Layer(weight, bias, temperature, min(rows * len(weight) // size, len(hidden)), size)
        upstreams, bends = (each.unsqueeze(1) / temperature for each in (by_logprob, by_entropy))
        with torch.autocast(hidden.device.type, enabled=False):
            for first in range(0, len(weight), size):
                block = slice(first, first + size)
                for start in range(0, len(hidden), layer.rows):
                    part = slice(start, start + layer.rows)
                    logs, change = layer.probabilities(hidden[part], block, normalizers[part])
                    upstream = upstreams[part]
                    if entropy_gradient:
                        change.mul_(logs.add_(entropies[part].unsqueeze(1)).mul_(-bends[part]).sub_(upstream))
                    else:
                        change.mul_(-upstream)
                    places = targets[part].unsqueeze(1) - first
                    inside = (places >= 0) & (places < change.shape[1])
                    change.scatter_add_(1, places.clamp(0, change.shape[1] - 1), (upstream * inside).to(change.dtype))
                    gradients.add(part, block, change)
                gradients.settle(block)
        return (*gradients.result(), None, None, None, None)


def _block(weight: Tensor) -> int:
    """Return how many entries of the vocabulary have their gradient summed up at once.

    All of them where sums are of the weight's own type; else the sums, in float32, would be twice the gradient.
    """
    return len(weight) if weight.dtype.itemsize >= 4 else max(1, BLOCK_ELEMENTS // weight.shape[1])


class _Layer:
    """The output layer, over a few tokens (and a part of the vocabulary) at a time, always in the same memory."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, temperature: float, rows: int, size: int | None = None
    ) -> None:
        self.rows = rows
        self._weight, self._bias, self._temperature = weight, bias, temperature
        wide = torch.promote_types(weight.dtype, torch.float32)
        # Flat, so that the last block of the vocabulary, which is smaller, is without gaps, too.
        self._product = weight.new_empty(rows * (size or len(weight)))
        self._logs = self._product if wide == weight.dtype else torch.empty_like(self._product, dtype=wide)
        self._probabilities = torch.empty_like(self._logs)

    def distribution(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logarithms and probabilities (n, V), at least in float32, and what logits were lowered by, (n,).

        The first two are valid until the next call.
        """
        logs, probabilities = self._logits(hidden, slice(None))
        torch.softmax(logs, -1, out=probabilities)
        # The normaliser follows from the largest entry of both, without a second pass of exponentials.
        normalizer = logs.amax(-1, keepdim=True) - probabilities.amax(-1, keepdim=True).log()
        return logs.sub_(normalizer), probabilities, normalizer.squeeze(1)

    def probabilities(self, hidden: Tensor, block: slice, normalizers: Tensor) -> tuple[Tensor, Tensor]:
        """Return logarithms and probabilities (n, v) of a part of the vocabulary; valid until the next call."""
        logs, probabilities = self._logits(hidden, block)
        torch.exp(logs.sub_(normalizers.unsqueeze(1)), out=probabilities)
        return logs, probabilities

    def _logits(self, hidden: Tensor, block: slice) -> tuple[Tensor, Tensor]:
        """Return logits (n, v), and room for as many probabilities."""
        weight = self._weight[block]
        shape = len(hidden), len(weight)
        product, logs, probabilities = (
            tensor[: shape[0] * shape[1]].view(shape) for tensor in (self._product, self._logs, self._probabilities)
        )
        torch.mm(hidden, weight.T, out=product)
        if self._bias is not None:
            product.add_(self._bias[block])
        if logs.dtype != product.dtype:
            logs.copy_(product)
        if self._temperature != 1.0:
            logs.div_(self._temperature)
        return logs, probabilities


class _Gradients:
    """Sums up the gradients of the output layer's inputs over parts, at least in float32.

    Of a weight of 16 bits, there are sums of one block of the vocabulary at a time.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, *, needed: tuple[bool, bool, bool]) -> None:
        self._inputs = (hidden, weight, bias)
        wide = torch.promote_types(weight.dtype, torch.float32)
        self._hidden = torch.zeros_like(hidden, dtype=wide) if needed[0] else None
        self._weight = torch.zeros_like(weight) if needed[1] else None
        self._bias = torch.zeros_like(bias, dtype=wide) if needed[2] and bias is not None else None
        self._sums = self._weight
        if self._weight is not None and wide != weight.dtype:
            self._sums = weight.new_zeros(min(_block(weight), len(weight)), weight.shape[1], dtype=wide)

    def add(self, part: slice, block: slice, change: Tensor) -> None:
        """Add what the gradient of logits, `change` (n, v) of a part of the tokens and the vocabulary, leads to."""
        hidden, weight, _ = self._inputs
        narrow = change.to(weight.dtype)
        if self._hidden is not None:
            _add_product(self._hidden[part], narrow, weight[block])
        if self._sums is not None:
            _add_product(self._sums[: change.shape[1]], narrow.T, hidden[part])
        if self._bias is not None:
            self._bias[block].add_(change.sum(0))

    def settle(self, block: slice) -> None:
        """Round the sums of a block, to begin with the next."""
        if self._weight is not None and self._sums is not None and self._sums is not self._weight:
            rows = self._weight[block]
            rows.copy_(self._sums[: len(rows)])
            self._sums.zero_()

    def result(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the sums in the types of what they are the gradients of."""
        hidden, _, bias = self._inputs
        return (
            None if self._hidden is None else self._hidden.to(hidden.dtype),
            self._weight,
            None if self._bias is None or bias is None else self._bias.to(bias.dtype),
        )


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add a matrix product to a sum that may have more bits."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


def _dots(left: Tensor, right: Tensor) -> Tensor:
    """Return the products (n,) of rows, without a tensor of all products."""
    return torch.bmm(left.unsqueeze(1), right.unsqueeze(2)).flatten()
