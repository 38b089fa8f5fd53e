"""Log-probabilities and entropies straight from hidden states: the logits of a large vocabulary are never all there.

The output layer runs over a few hundred tokens at a time. Where its weight is frozen (LoRA), the gradients of the
hidden states are formed along the way, since each token's are linear in the one number that comes back for it. Where
the weight is trained, what comes back has to be known first, so that the logits of each part are computed once more
backwards, without a graph: one matrix product more than keeping them, and a few passes over a part's logits instead of
the dozen that automatic differentiation takes.

The idea of going on to gradients within the forward pass is that of Liger Kernel (Hsu et al., 2024, section 3.2);
the entropy and its gradient are added here.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor


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
    return type(head) is nn.Linear and not isinstance(head.weight, DTensor)


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
            logs, probabilities = layer.distribution(part)
            entropy = -_dots(probabilities, logs)
            scored: tuple[Tensor, ...] = (logs.gather(1, target.unsqueeze(1)).squeeze(1), entropy)
            if ahead:
                bent = logs.add_(entropy.unsqueeze(1)).mul_(probabilities) if entropy_gradient else None
                # Before anything is rounded: of a token that is nearly certain, a probability of 8 bits leaves nothing.
                change = probabilities.neg_()
                change.scatter_add_(1, target.unsqueeze(1), torch.ones_like(change[:, :1]))
                scored += (change.to(weight.dtype) @ weight / temperature,)
                if bent is not None:
                    scored += (bent.to(weight.dtype) @ weight / -temperature,)
            scores.append(scored)
        logprobs, entropies, *slopes = (torch.cat(parts) for parts in zip(*scores, strict=True))
        ctx.settings = (temperature, rows, entropy_gradient, ahead)
        ctx.save_for_backward(*(slopes if ahead else (hidden, weight, bias, targets, entropies)))
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
        hidden, weight, bias, targets, entropies = ctx.saved_tensors
        gradients = _Gradients(hidden, weight, bias, needed=ctx.needs_input_grad[:3])
        layer = _Layer(weight, bias, temperature, min(rows, len(hidden)))
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), rows):
                part = slice(start, start + rows)
                logs, change = layer.distribution(hidden[part])
                upstream = by_logprob[part].unsqueeze(1) / temperature
                if entropy_gradient:
                    bend = by_entropy[part].unsqueeze(1) / temperature
                    change.mul_(logs.add_(entropies[part].unsqueeze(1)).mul_(-bend).sub_(upstream))
                else:
                    change.mul_(-upstream)
                change.scatter_add_(1, targets[part].unsqueeze(1), upstream.to(change.dtype))
                gradients.add(part, change)
        return (*gradients.result(), None, None, None, None)


class _Layer:
    """The output layer, over a few tokens at a time, always in the same memory."""

    def __init__(self, weight: Tensor, bias: Tensor | None, temperature: float, rows: int) -> None:
        self._weight, self._bias, self._temperature = weight, bias, temperature
        wide = torch.promote_types(weight.dtype, torch.float32)
        self._product = weight.new_empty(rows, len(weight))
        self._logs = self._product if wide == weight.dtype else weight.new_empty(rows, len(weight), dtype=wide)
        self._probabilities = torch.empty_like(self._logs)

    def distribution(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return logarithms and probabilities (n, V), at least in float32; valid until the next call."""
        product, logs, probabilities = (
            tensor[: len(hidden)] for tensor in (self._product, self._logs, self._probabilities)
        )
        torch.mm(hidden, self._weight.T, out=product)
        if self._bias is not None:
            product.add_(self._bias)
        if logs.dtype != product.dtype:
            logs.copy_(product)
        if self._temperature != 1.0:
            logs.div_(self._temperature)
        torch.softmax(logs, -1, out=probabilities)
        # The normaliser follows from the largest entry of both, without a second pass of exponentials.
        logs.sub_(logs.amax(-1, keepdim=True) - probabilities.amax(-1, keepdim=True).log())
        return logs, probabilities


class _Gradients:
    """Sums up the gradients of the output layer's inputs over parts; those of weight and bias at least in float32."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, *, needed: tuple[bool, bool, bool]) -> None:
        self._inputs = (hidden, weight, bias)
        wide = torch.promote_types(weight.dtype, torch.float32)
        self._hidden = torch.empty_like(hidden) if needed[0] else None
        self._weight = torch.zeros_like(weight, dtype=wide) if needed[1] else None
        self._bias = torch.zeros_like(bias, dtype=wide) if needed[2] and bias is not None else None

    def add(self, part: slice, change: Tensor) -> None:
        """Add what the gradient of a part's logits, `change` (n, V), leads to."""
        hidden, weight, _ = self._inputs
        narrow = change.to(weight.dtype)
        if self._hidden is not None:
            torch.mm(narrow, weight, out=self._hidden[part])
        if self._weight is not None:
            if self._weight.dtype == weight.dtype:
                self._weight.addmm_(narrow.T, hidden[part])
            else:
                self._weight.add_(narrow.T @ hidden[part])
        if self._bias is not None:
            self._bias.add_(change.sum(0))

    def result(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the sums in the types of what they are the gradients of."""
        _, weight, bias = self._inputs
        return (
            self._hidden,
            None if self._weight is None else self._weight.to(weight.dtype),
            None if self._bias is None or bias is None else self._bias.to(bias.dtype),
        )


def _dots(left: Tensor, right: Tensor) -> Tensor:
    """Return the products (n,) of rows, without a tensor of all products."""
    return torch.bmm(left.unsqueeze(1), right.unsqueeze(2)).flatten()
