"""Optimiser steps from a batch: mini-batches, micro-batches of similar length, losses, clipping."""

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from agent_gym.errors import TrainingError
from agent_gym.rollout.seeds import derive_seed
from agent_gym.trainers.algorithm import Algorithm, Progress
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.optimizers import Name, make_optimizer
from agent_gym.trainers.policy_loss import aggregate, aggregation_weight
from agent_gym.trainers.scorer import TokenScorer


@dataclass(frozen=True, slots=True)
class UpdateSettings:
    """How a batch becomes optimiser steps."""

    optimizer: Name = "adamw"
    learning_rate: float = 1e-6
    updates_per_step: int = 1
    """Mini-batches that a step's batch is cut into; one optimiser step each."""
    micro_batch_tokens: int = 16384
    """Tokens, padding included, that go through the model at once."""
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    temperature: float = 1.0
    """That of sampling."""
    final_learning_rate: float = 1.0
    """The learning rate falls linearly to this share of itself over the run."""


class Updater:
    """Owns the optimiser.

    Args:
        model: The policy; trained in place.
        settings: How to train.
        accelerator: From accelerate; made for this process if not given.
    """

    def __init__(
        self, model: PreTrainedModel, settings: UpdateSettings, *, accelerator: Accelerator | None = None
    ) -> None:
        self.settings = settings
        self.accelerator = accelerator or Accelerator()
        scorer = TokenScorer(model, temperature=settings.temperature)
        optimizer = make_optimizer(
            settings.optimizer,
            model,
            learning_rate=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
        )
        self.scorer, self.optimizer = self.accelerator.prepare(scorer, optimizer)

    def step(self, batch: Batch, algorithm: Algorithm, progress: Progress, *, seed: int) -> dict[str, float]:
        """Train on a batch whose advantages are filled.

        Rows whose advantages are all 0 are left out where no loss asks for entropy: they would add nothing but cost.

        Returns:
            Means over the step's updates: loss, entropy, grad_norm, kl, clip fractions, and so on.

        Raises:
            TrainingError: A loss or gradient is not finite; the weights are as they were before that update.
        """
        self._set_learning_rate(progress)
        metrics: dict[str, list[float]] = defaultdict(list)
        order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(derive_seed(seed, progress.step)))
        for rows in order.tensor_split(self.settings.updates_per_step):
            useful = rows if algorithm.needs_entropy_gradient else rows[(batch.advantages[rows] != 0).any(1)]
            if len(useful) == 0:
                continue
            for name, value in self._update(batch, rows, useful, algorithm, progress).items():
                metrics[name].append(value)
        metrics["updates"] = [float(len(metrics.get("loss", ())))]
        return {name: math.fsum(values) / len(values) for name, values in metrics.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the optimiser's state."""
        state: dict[str, Any] = self.optimizer.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.optimizer.load_state_dict(state)

    def _update(
        self, batch: Batch, rows: Tensor, useful: Tensor, algorithm: Algorithm, progress: Progress
    ) -> dict[str, float]:
        """Make one optimiser step. The loss is a mean over all `rows`, though only the `useful` ones are computed."""
        device = self.accelerator.device
        total = self._global_sum(aggregation_weight(batch.mask[rows], algorithm.aggregation).to(device))
        sums: dict[str, float] = defaultdict(float)
        tokens = 0.0
        self.scorer.train()
        self.optimizer.zero_grad()
        parts = list(self._micro_batches(batch, useful))
        for number, part_rows in enumerate(parts):
            part = batch.select(part_rows).to(device)
            with self._maybe_no_sync(last=number == len(parts) - 1):
                loss, part_metrics = self._loss(part, algorithm, progress, width=batch.mask.shape[1])
                scale = aggregation_weight(part.mask, algorithm.aggregation) / total
                if not torch.isfinite(loss):
                    raise TrainingError(
                        "The loss is not finite: lower the learning rate, or look for log-probabilities that are not."
                    )
                # DDP averages gradients over processes, while `total` counts the rows of all of them.
                self.accelerator.backward(loss * scale * self.accelerator.num_processes)
            count = float(part.mask.sum())
            tokens += count
            sums["loss"] += float(loss.detach() * scale)
            for name, value in part_metrics.items():
                sums[name] += float(value) * count
        norm = self.accelerator.clip_grad_norm_(self.scorer.parameters(), self.settings.max_grad_norm)
        if not torch.isfinite(norm):
            raise TrainingError("The gradient is not finite: lower the learning rate or max_grad_norm.")
        self.optimizer.step()
        loss_sum = sums.pop("loss")
        return {name: value / max(tokens, 1.0) for name, value in sums.items()} | {
            "loss": loss_sum,
            "grad_norm": float(norm),
        }

    def _loss(
        self, part: Batch, algorithm: Algorithm, progress: Progress, *, width: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a micro-batch and what to log; `width` is that of the whole batch."""
        logprobs, entropy = self.scorer(part.input_ids, part.mask, algorithm.needs_entropy_gradient)
        loss = logprobs.new_zeros(())
        metrics: dict[str, Tensor] = {}
        # A micro-batch is cut to its longest row, and the constant must not depend on the cut.
        scale = float(width) if algorithm.loss_scale is None else algorithm.loss_scale
        for term in algorithm.losses:
            values = term(part, logprobs, entropy, progress) * part.weights
            loss = loss + aggregate(values, part.mask, algorithm.aggregation, scale=scale)
            with torch.no_grad():
                metrics.update(term.metrics(part, logprobs, entropy))
        with torch.no_grad():
            count = part.mask.sum().clamp(min=1)
            metrics["entropy"] = entropy.detach().sum() / count
            metrics["sample_mismatch"] = ((logprobs - part.old_logprobs).abs() * part.mask).sum() / count
        return loss, metrics

    def _micro_batches(self, batch: Batch, rows: Tensor) -> Iterator[Tensor]:
        """Cut rows into runs of similar length, so that little of a padded micro-batch is padding."""
        ordered = rows[batch.lengths[rows].argsort(descending=True, stable=True)]
        start = 0
        while start < len(ordered):
            longest = int(batch.lengths[ordered[start]])
            size = max(1, self.settings.micro_batch_tokens // longest)
            yield ordered[start : start + size]
            start += size

    def _maybe_no_sync(self, *, last: bool) -> Any:
        """Exchange gradients between processes with the last micro-batch alone."""
        return self.accelerator.no_sync(self.scorer) if not last else contextlib.nullcontext()

    def _global_sum(self, value: Tensor) -> Tensor:
        reduced: Tensor = self.accelerator.reduce(value, "sum")
        return reduced.clamp(min=1)

    def _set_learning_rate(self, progress: Progress) -> None:
        final = self.settings.final_learning_rate
        done = progress.step / max(progress.total_steps, 1)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * (1 - (1 - final) * done)
