"""The frozen policy that a KL penalty pulls towards."""

import copy
from contextlib import nullcontext

from torch import Tensor
from transformers import PreTrainedModel

from agent_gym.engines.adapters import StartingAdapter
from agent_gym.trainers import deepspeed, sharding
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.processes import Processes, alone
from agent_gym.trainers.rowwise import for_each_row
from agent_gym.trainers.scorer import TokenScorer


class Reference:
    """A policy that is never trained.

    Args:
        model: It is used as it is: hand in a copy of one that is trained, see `frozen_copy`. Of a model with adapters
            the ones that it began with are enough, and there is no second model.
        temperature: That of sampling.
        micro_batch_tokens: Tokens, padding included, that go through the model at once.
        processes: Each is asked about its share of the rows; this one alone if not given.
        shard: Spread it over the processes.
    """

    def __init__(
        self,
        model: PreTrainedModel | StartingAdapter,
        *,
        temperature: float,
        micro_batch_tokens: int,
        processes: Processes | None = None,
        shard: bool = False,
    ) -> None:
        self._processes = processes or alone()

        self._shared = model if isinstance(model, StartingAdapter) else None
        self.model = (
            model.model
            if isinstance(model, StartingAdapter)
            else model.eval().requires_grad_(False).to(self._processes.accelerator.device)
        )
        self._scorer = TokenScorer(self.model, temperature=temperature)
        self._tokens = micro_batch_tokens
        if shard and deepspeed.is_used(self._processes.accelerator):
            deepspeed.spread_frozen(self._scorer, self._processes.accelerator)
        elif shard:
            sharding.shard(self._scorer, self._processes.accelerator)

    def logprobs(self, batch: Batch) -> Tensor:
        """Return the log-probabilities (B, T) of what was generated, 0 elsewhere; on every process those of all."""
        with self._shared.applied() if self._shared is not None else nullcontext():
            return for_each_row(
                batch,
                lambda part: self._scorer(part.input_ids, part.mask)[0],
                self._processes,
                tokens=self._tokens,
            )


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a model as it is now."""
    return copy.deepcopy(model)
