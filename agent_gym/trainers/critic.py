"""The critic of actor-critic methods: a copy of the policy's backbone that expects a return at each token."""

import copy
import math
from collections import defaultdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from agent_gym.errors import TrainingError
from agent_gym.trainers.algorithm import CriticSettings, Progress
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.micro_batches import by_length, shares
from agent_gym.trainers.optimizers import make_optimizer
from agent_gym.trainers.processes import Processes, added, alone
from agent_gym.trainers.rowwise import for_each_row
from agent_gym.trainers.sharding import full, spread_like
from agent_gym.trainers.trained import Trained
from agent_gym.trainers.value_loss import value_loss, value_metrics


class ValueModel(nn.Module):
    """A backbone with a linear head that is 0 at first: nothing is expected until something was learnt.

    Args:
        model: A causal model; its backbone is copied. What is frozen in it (all but the adapters of LoRA) is shared.

    Raises:
        TrainingError: The model does not tell its backbone from its output layer.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        if model.base_model is model:
            raise TrainingError(
                f"{type(model).__name__} has no backbone that a critic could copy: choose an algorithm without critic."
            )
        frozen = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
        self.backbone = copy.deepcopy(model.base_model, dict(frozen))
        self.head = nn.Linear(model.config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Return values (B, T): what is expected before each token on which the mask is 1; 0 elsewhere.

        Args:
            input_ids: (B, T), padded on the right.
            mask: (B, T); the first column must be 0.
        """
        rows, columns = mask.nonzero(as_tuple=True)
        hidden = self.backbone(input_ids=input_ids, use_cache=False).last_hidden_state[rows, columns - 1]
        values: Tensor = self.head(hidden.to(self.head.weight.dtype)).squeeze(1)
        return values.new_zeros(mask.shape).index_put((rows, columns), values)


class Critic:
    """Owns the value model and its optimiser.

    Args:
        model: The policy, before it is wrapped or trained; its backbone is copied.
        settings: How the critic is trained.
        processes: Those that train together, each with the same batches; this one alone if not given.
        micro_batch_tokens: Tokens, padding included, that go through the model at once.
        shard: Spread the value model over the processes.

    Raises:
        TrainingError: The policy has no backbone of its own.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        settings: CriticSettings,
        *,
        processes: Processes | None = None,
        micro_batch_tokens: int = 16384,
        shard: bool = False,
    ) -> None:
        self.settings = settings
        self.processes = processes or alone()
        self.micro_batch_tokens = micro_batch_tokens

        def optimizer(module: nn.Module) -> torch.optim.Optimizer:
            return make_optimizer("adamw", module, learning_rate=settings.learning_rate, betas=(0.9, 0.999))

        self.model = ValueModel(model)
        self.trained = Trained(self.model, optimizer, self.processes, shard=shard)
        self.optimizer = self.trained.optimizer

    def values(self, batch: Batch) -> Tensor:
        """Return what is expected before each token that is trained on, (B, T) on the CPU; 0 elsewhere."""
        self.model.eval()
        values = for_each_row(
            batch,
            lambda part: self.model(part.input_ids, part.mask),
            self.processes,
            tokens=self.micro_batch_tokens,
        )
        self.trained.settle()
        return values

    def step(self, batch: Batch, progress: Progress, *, seed: int) -> dict[str, float]:
        """Learn `batch.returns`, as many optimiser steps as the settings say.

        Args:
            batch: With `values` of before and `returns`.
            progress: Where training stands.
            seed: Of the order of rows.

        Returns:
            "value_loss", "value_error", "value_clip_fraction" and "critic_grad_norm", means over the steps, and
            "value_explained": the share of the returns' variance that the values of before explained.

        Raises:
            TrainingError: A value, a return or a gradient is not finite; the weights are as they were before that.
        """
        warm = min((progress.step + 1) / max(self.settings.warmup_steps, 1), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * warm
        metrics: dict[str, list[float]] = defaultdict(list)
        order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(seed))
        for rows in order.tensor_split(self.settings.updates_per_step):
            if batch.mask[rows].any():
                for name, value in self._update(batch, rows).items():
                    metrics[name].append(value)
        means = {name: math.fsum(values) / len(values) for name, values in metrics.items()}
        return means | {"value_explained": _explained(batch)}

    def state_dict(self) -> dict[str, Any]:
        """Return the weights that are trained and the optimiser's state."""
        frozen = {name for name, parameter in self.model.named_parameters() if not parameter.requires_grad}
        weights = {name: value for name, value in self.model.state_dict().items() if name not in frozen}
        return {"model": full(weights) if self.trained.sharded else weights, "optimizer": self.trained.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        own = self.model.state_dict()
        weights = {name: spread_like(value, own[name]) for name, value in state["model"].items()}
        self.model.load_state_dict(weights, strict=False)
        self.trained.load_state_dict(state["optimizer"])

    def _update(self, batch: Batch, rows: Tensor) -> dict[str, float]:
        """Make one optimiser step on the mean loss of the rows' tokens."""
        device = self.processes.accelerator.device
        total = batch.mask[rows].sum().to(device).clamp(min=1)
        sums: dict[str, float] = defaultdict(float)
        shared = [
            list(by_length(batch.lengths, part, self.micro_batch_tokens))
            for part in shares(batch.lengths, rows, self.processes.count)
        ]
        own, longest = shared[self.processes.rank], max(map(len, shared))
        self.trained.module.train()
        self.optimizer.zero_grad()
        for number in range(longest):
            last = number == longest - 1
            # Where another process has one micro-batch more, the shortest row goes through without weight.
            weight = float(number < len(own))
            part = batch.select(own[number] if weight else batch.lengths.argmin().view(1)).to(device)
            with self.trained.forwarding(last=last):
                values = self.trained.module(part.input_ids, part.mask)
                loss = self.trained.spared(values, partial(self._loss, values, part, total))
                self.trained.backward(loss * weight, last=last)
            share = float(part.mask.sum() / total) * weight
            sums["value_loss"] += float(loss.detach()) * weight
            measured = value_metrics(values.detach(), part.values, part.returns, part.mask, clip=self.settings.clip)
            for name, value in measured.items():
                sums[name] += float(value) * share
        self.trained.agree()
        norm = self.trained.clip(self.settings.max_grad_norm)
        if not torch.isfinite(norm):
            raise TrainingError("The critic's gradient is not finite: lower its learning rate.")
        self.optimizer.step()
        return {**added(self.processes.all(dict(sums))), "critic_grad_norm": float(norm)}

    def _loss(self, values: Tensor, part: Batch, total: Tensor) -> Tensor:
        return value_loss(values, part.values, part.returns, part.mask, clip=self.settings.clip).sum() / total


def _explained(batch: Batch) -> float:
    """Return 1 - variance(returns - values) / variance(returns); 0 where the returns are all equal."""
    kept = batch.mask.bool()
    returns, values = batch.returns[kept], batch.values[kept]
    spread = returns.var(correction=0) if len(returns) else returns.sum()
    return float(1 - (returns - values).var(correction=0) / spread) if spread > 0 else 0.0
