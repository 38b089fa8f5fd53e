"""The frozen policy that a KL penalty pulls towards."""

import copy
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from agent_gym.engines.adapters import StartingAdapter
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.scorer import TokenScorer
from agent_gym.trainers.update import by_length


class Reference:
    """A policy that is never trained.

    Args:
        model: It is used as it is: hand in a copy of one that is trained, see `frozen_copy`. Of a model with adapters
            the ones that it began with are enough, and there is no second model.
        temperature: That of sampling.
        micro_batch_tokens: Tokens, padding included, that go through the model at once.
        accelerator: Says where it runs.
    """

    def __init__(
        self,
        model: PreTrainedModel | StartingAdapter,
        *,
        temperature: float,
        micro_batch_tokens: int,
        accelerator: Accelerator,
    ) -> None:
        self._shared = model if isinstance(model, StartingAdapter) else None
        self.model = (
            model.model
            if isinstance(model, StartingAdapter)
            else model.eval().requires_grad_(False).to(accelerator.device)
        )
        self._scorer = TokenScorer(self.model, temperature=temperature)
        self._tokens = micro_batch_tokens
        self._device = accelerator.device

    @torch.no_grad()
    def logprobs(self, batch: Batch) -> Tensor:
        """Return the log-probabilities (B, T) of what was generated, 0 elsewhere."""
        result = torch.zeros_like(batch.mask)
        with self._shared.applied() if self._shared is not None else nullcontext():
            for rows in by_length(batch.lengths, torch.arange(len(batch)), self._tokens):
                part = batch.select(rows).to(self._device)
                logprobs, _ = self._scorer(part.input_ids, part.mask)
                result[rows, : part.mask.shape[1]] = logprobs.float().cpu()
        return result


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a model as it is now."""
    return copy.deepcopy(model)
