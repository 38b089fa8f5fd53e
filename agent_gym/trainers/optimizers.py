"""Optimisers by name, from torch; what is here decides which parameters each one gets, and makes Muon fast on CPUs."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from agent_gym.engines.weights import whole
from agent_gym.errors import UnknownIdError
from agent_gym.trainers.sharding import spread_like, spread_on_loading

Name = Literal["adamw", "muon"]

STEP_ELEMENTS = 1 << 26
"""Weights of 16 bits whose gradients are held in float32 at once, but for a parameter that has more by itself."""


class BatchedMuon(torch.optim.Muon):
    """torch's Muon in the precision of the weights, over all matrices of a shape at once.

    torch orthogonalises one matrix after the other and always in bfloat16, which most processors only emulate: there
    the optimiser took five times as long as everything else in a step. State and arguments are torch's, but for one:
    the size of the steps is always that of `adjust_lr_fn="match_rms_adamw"`.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make one step."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._step_together(parameters, group)

    def _step_together(self, parameters: Sequence[Tensor], group: dict[str, Any]) -> None:
        """Make a step of matrices of one shape."""
        # The whole matrix makes its direction: of one that is sharded, every process makes the same.
        directions = torch.stack([whole(self._direction(p, p.grad, group)) for p in parameters if p.grad is not None])
        updates = orthogonalize(directions, group["ns_coefficients"], steps=group["ns_steps"], eps=group["eps"])
        # The size of AdamW's steps, so that one learning rate serves both.
        rate = 0.2 * max(parameters[0].shape) ** 0.5 * group["lr"]
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(spread_like(update, parameter), alpha=-rate)

    def _direction(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        """Add the gradient to the momentum; return what is orthogonalised."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum: Tensor = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum


def orthogonalize(
    matrices: Tensor,
    coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
    *,
    steps: int = 5,
    eps: float = 1e-7,
) -> Tensor:
    """Bring the singular values of matrices near 1 (between about 0.7 and 1.2) by a Newton-Schulz iteration.

    Args:
        matrices: (N, R, C).
        coefficients: Of the odd quintic polynomial that is applied to the singular values.
        steps: How many times it is applied.
        eps: Smallest norm that a matrix is divided by.

    Returns:
        The matrices (N, R, C), singular vectors unchanged.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
    """
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon on the matrices of the layers, AdamW on embeddings, norms and biases: how Muon is meant to be used.

    Its updates are orthogonalised, which lets a small model that begins from random weights learn in far fewer steps.
    Matrix updates are scaled to the size of AdamW's, so that one learning rate serves both.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; Liu et al., "Muon is
    Scalable for LLM Training", 2025 (the scaling).
    """

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        others: Sequence[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        # Of LoRA's adapters all are matrices, and a part without parameters cannot be made.
        parts: list[torch.optim.Optimizer] = []
        if matrices:
            parts.append(BatchedMuon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
        if others:
            parts.append(torch.optim.AdamW(others, lr=lr, betas=betas, weight_decay=weight_decay))
        for part in parts:
            spread_on_loading(part)
        self._parts = tuple(parts)
        super().__init__([*matrices, *others], {"lr": lr})
        # One list of groups, so that schedules and accelerate see all of them.
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make one step of both."""
        for part in self._parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of both."""
        for part in self._parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        for part, saved in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(saved)
        self.param_groups = [group for part in self._parts for group in part.param_groups]


class MasterWeights(torch.optim.Optimizer):
    """Another optimiser in float32 for weights of 16 bits: what it adds up is copied to them after each step.

    A weight in bfloat16 has 8 significant bits, and an update of less than 1/512 of it is rounded away. At the learning
    rates of fine-tuning that is nearly every update of AdamW.

    Args:
        parameters: What the model computes with.
        masters: For each its copy in float32; itself where it is float32 already.
        inner: The optimiser of the copies.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], masters: Sequence[nn.Parameter], inner: torch.optim.Optimizer
    ) -> None:
        self._copied = [(one, other) for one, other in zip(parameters, masters, strict=True) if one is not other]
        self._own = [one for one, other in zip(parameters, masters, strict=True) if one is other]
        self._inner = inner
        super().__init__(parameters, dict(inner.defaults))
        self.param_groups = inner.param_groups

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make one step of the copies, and round them; bucket by bucket, as gradients in float32 are twice as large."""
        if self._own:
            self._inner.step()
        # Whoever has no gradient is passed over: each weight is stepped once.
        gradients = [parameter.grad for parameter in self._own]
        for parameter in self._own:
            parameter.grad = None
        for bucket in _buckets(self._copied):
            for parameter, master in bucket:
                master.grad = None if parameter.grad is None else parameter.grad.to(master.dtype)
            self._inner.step()
            for parameter, master in bucket:
                master.grad = None
                parameter.copy_(master)
        for parameter, gradient in zip(self._own, gradients, strict=True):
            parameter.grad = gradient

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of the weights."""
        self._inner.zero_grad(set_to_none)
        for parameter, _ in self._copied:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return the copies and the state of their optimiser."""
        return {"masters": [master.detach() for _, master in self._copied], "inner": self._inner.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        for (_, master), saved in zip(self._copied, state_dict["masters"], strict=True):
            master.copy_(spread_like(saved, master))
        self._inner.load_state_dict(state_dict["inner"])
        self.param_groups = self._inner.param_groups


def _buckets(pairs: Sequence[tuple[nn.Parameter, nn.Parameter]]) -> Iterator[list[tuple[nn.Parameter, nn.Parameter]]]:
    """Cut a list of parameters and copies where `STEP_ELEMENTS` are full; by whole sizes, alike on all processes."""
    bucket: list[tuple[nn.Parameter, nn.Parameter]] = []
    elements = 0
    for pair in pairs:
        if bucket and elements + pair[0].numel() > STEP_ELEMENTS:
            yield bucket
            bucket, elements = [], 0
        bucket.append(pair)
        elements += pair[0].numel()
    if bucket:
        yield bucket


def make_optimizer(
    name: Name,
    model: nn.Module,
    *,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.0,
    copies: bool = True,
) -> torch.optim.Optimizer:
    """Return an optimiser over the trainable parameters of a model; those of 16 bits get a copy in float32.

    Args:
        name: "adamw" or "muon".
        model: What is trained.
        learning_rate: The same for all parameters.
        betas: Of AdamW.
        weight_decay: Relative to the learning rate.
        copies: False where something else (DeepSpeed) keeps copies in float32.

    Raises:
        UnknownIdError: Neither "adamw" nor "muon".
    """
    if name not in get_args(Name):
        raise UnknownIdError.of("optimizer", name, get_args(Name))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    masters = [_in_float32(parameter) if copies else parameter for parameter in parameters]
    inner: torch.optim.Optimizer
    if name == "muon":
        outer = _embeddings(model)
        inside = [parameter.dim() == 2 and id(parameter) not in outer for parameter in parameters]
        matrices = [master for master, matrix in zip(masters, inside, strict=True) if matrix]
        others = [master for master, matrix in zip(masters, inside, strict=True) if not matrix]
        inner = MuonAndAdamW(matrices, others, lr=learning_rate, betas=betas, weight_decay=weight_decay)
    else:
        inner = torch.optim.AdamW(masters, lr=learning_rate, betas=betas, weight_decay=weight_decay)
        spread_on_loading(inner)
    copied = any(one is not other for one, other in zip(parameters, masters, strict=True))
    return MasterWeights(parameters, masters, inner) if copied else inner


def _in_float32(parameter: nn.Parameter) -> nn.Parameter:
    """Return a copy of a parameter of 16 bits; one of more bits itself."""
    return nn.Parameter(parameter.detach().float()) if parameter.dtype.itemsize < 4 else parameter


def _embeddings(model: nn.Module) -> set[int]:
    """Return the identities of the parameters at a model's two ends: embeddings and the output layer."""
    ends = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return {id(parameter) for module in (*ends, *([head] if head else [])) for parameter in module.parameters()}
