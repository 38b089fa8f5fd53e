"""Log-probabilities and entropies of given tokens, with gradient, without ever holding logits for a whole batch."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

CHUNK_ELEMENTS = 1 << 26
"""Logits held at once (256 MB in float32). Larger selections are cut into chunks that are computed again backwards."""


class TokenScorer(nn.Module):
    """Scores the masked tokens of a batch under a causal model.

    The output layer runs on the hidden states before masked tokens alone: in agent episodes most tokens come from the
    environment, and their logits are never needed.

    Args:
        model: A causal model. Where it does not split into a backbone and an output layer (checked on a probe), its
            own forward pass makes all logits.
        temperature: Logits are divided by it, as they were when the tokens were sampled.
    """

    def __init__(self, model: PreTrainedModel, *, temperature: float = 1.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"The temperature of training must be positive, not {temperature}.")
        self.model = model
        self.temperature = temperature
        self.splits = _splits(model)

    def forward(self, input_ids: Tensor, mask: Tensor, entropy_gradient: bool = False) -> tuple[Tensor, Tensor]:
        """Score each masked token given the tokens before it.

        Args:
            input_ids: (B, T), padded on the right.
            mask: (B, T), 1 on the tokens to score; the first column cannot be scored and must be 0.
            entropy_gradient: Let gradient flow through the entropies too.

        Returns:
            Log-probabilities (B, T) and entropies (B, T) in nats, 0 outside the mask.
        """
        rows, columns = mask.nonzero(as_tuple=True)
        hidden = self._before(input_ids, rows, columns)
        logprobs, entropies = self._score(hidden, input_ids[rows, columns], entropy_gradient)
        shape = torch.zeros(input_ids.shape, dtype=logprobs.dtype, device=logprobs.device)
        return shape.index_put((rows, columns), logprobs), shape.index_put((rows, columns), entropies)

    def _before(self, input_ids: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Return what predicts each selected token: hidden states (M, D), or logits (M, V) where the model is whole.

        Padding on the right needs no attention mask: causal attention of real tokens never reaches it.
        """
        if self.splits:
            output = self.model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        else:
            output = self.model(input_ids=input_ids).logits
        selected: Tensor = output[rows, columns - 1]
        return selected

    def _score(self, hidden: Tensor, targets: Tensor, entropy_gradient: bool) -> tuple[Tensor, Tensor]:
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        size = max(1, CHUNK_ELEMENTS // int(vocabulary))
        if len(targets) <= size:
            return self._score_chunk(hidden, targets, entropy_gradient)
        parts = [
            checkpoint(self._score_chunk, part, target, entropy_gradient, use_reentrant=False)
            for part, target in zip(hidden.split(size), targets.split(size), strict=True)
        ]
        logprobs, entropies = zip(*parts, strict=True)
        return torch.cat(logprobs), torch.cat(entropies)

    def _score_chunk(self, hidden: Tensor, targets: Tensor, entropy_gradient: bool) -> tuple[Tensor, Tensor]:
        logits = self.model.get_output_embeddings()(hidden) if self.splits else hidden
        distribution = (logits.float() / self.temperature).log_softmax(-1)
        with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
            entropies = -(distribution.exp() * distribution).sum(-1)
        return distribution.gather(1, targets.unsqueeze(1)).squeeze(1), entropies


def _splits(model: PreTrainedModel) -> bool:
    """Return whether the output layer applied to the backbone's hidden states gives the model's own logits."""
    head = model.get_output_embeddings()
    if head is None or model.base_model is model:
        return False
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    probe = torch.tensor([[token % vocabulary for token in (3, 1, 4, 1, 5)]], device=model.device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            whole = model(input_ids=probe).logits
            split = head(model.base_model(input_ids=probe, use_cache=False).last_hidden_state)
    except (TypeError, AttributeError, RuntimeError):
        return False
    finally:
        model.train(training)
    return whole.shape == split.shape and torch.allclose(whole, split, atol=1e-4, rtol=1e-3)
