"""Log-probabilities and entropies of given tokens, with gradient, without ever holding logits for a whole batch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from agent_gym.engines.attention import attending_through
from agent_gym.errors import TrainingError
from agent_gym.trainers.fused import can_fuse, token_scores
from agent_gym.trainers.shared_prefix import NAME, PrefixTree, pack

CHUNK_ELEMENTS = 1 << 26
"""Logits held at once (256 MB in float32). Larger selections are computed in chunks, see `fused`."""
Packing = Literal["auto", "on", "off"]


class TokenScorer(nn.Module):
    """Scores the masked tokens of a batch under a causal model.

    The output layer runs on the hidden states before masked tokens alone: in agent episodes most tokens come from the
    environment, and their logits are never needed.

    Args:
        model: A causal model. Where it does not split into a backbone and an output layer (checked on a probe), its
            own forward pass makes all logits.
        temperature: Logits are divided by it, as they were when the tokens were sampled.
        share_prefixes: Compute what rows have in common once (see `shared_prefix`): the same numbers and gradients up
            to rounding. Dropout, if the model has any, is then drawn once for what is shared.
        pack: Lay rows end to end instead of padding them, each attending to itself alone: "on", "off", or "auto" for
            models with flash-attention, which then computes no more than the rows need. Other attention gets a mask
            over all pairs of tokens: the same numbers, but memory and time grow with their square.

    Raises:
        TrainingError: Prefixes cannot be shared, or rows not be packed, in this model (checked on a probe).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        temperature: float = 1.0,
        share_prefixes: bool = False,
        pack: Packing = "off",
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"The temperature of training must be positive, not {temperature}.")
        self.model = model
        self.temperature = temperature
        # What is spread over processes later on is empty between its uses.
        self.vocabulary = int(model.get_input_embeddings().weight.shape[0])
        self.splits = _splits(model)
        self.share_prefixes = share_prefixes
        if share_prefixes and not self._can_share():
            raise TrainingError(
                f"{type(model).__name__} does not take a tree attention mask, so that rows cannot share what they "
                "begin with: set update.share_prefixes=false."
            )
        flash = "flash" in (getattr(model.config, "_attn_implementation", None) or "")
        wanted = not share_prefixes and (pack == "on" or (pack == "auto" and flash))
        self.packs = wanted and self._can_pack()
        """Whether rows are laid end to end."""
        if pack == "on" and not self.packs:
            raise TrainingError(
                "update.pack=on does not go with update.share_prefixes, which lays rows end to end already."
                if share_prefixes
                else f"{type(model).__name__} mixes rows that are laid end to end: set update.pack=off."
            )

    def forward(
        self,
        input_ids: Tensor,
        mask: Tensor,
        entropy_gradient: bool = False,
        groups: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Score each masked token given the tokens before it.

        Args:
            input_ids: (B, T), padded on the right.
            mask: (B, T), 1 on the tokens to score; the first column cannot be scored and must be 0.
            entropy_gradient: Let gradient flow through the entropies too.
            groups: (B,) prefixes are shared only between rows where these numbers are equal; None shares between all.
            lengths: (B,) tokens in each row, to check the mask by; None trusts it.

        Returns:
            Log-probabilities (B, T) and entropies (B, T) in nats, 0 outside the mask.

        Raises:
            ValueError: The mask asks for padding.
            TrainingError: Prefixes are shared, and the model recomputes activations.
        """
        ends = ((mask != 0) * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1)
        if lengths is not None and (ends > lengths).any():
            raise ValueError("The mask asks for tokens beyond the end of their row.")
        rows, columns = mask.nonzero(as_tuple=True)
        if self.share_prefixes:
            logprobs, entropies = self._score_shared(input_ids, rows, columns, ends, groups, entropy_gradient)
        else:
            if self.packs:
                hidden = self._before_packed(input_ids, rows, columns, ends)
            else:
                hidden = self._before(input_ids, rows, columns)
            logprobs, entropies = self._score(hidden, input_ids[rows, columns], entropy_gradient)
        shape = torch.zeros(input_ids.shape, dtype=logprobs.dtype, device=logprobs.device)
        return shape.index_put((rows, columns), logprobs), shape.index_put((rows, columns), entropies)

    def _score_shared(
        self,
        input_ids: Tensor,
        rows: Tensor,
        columns: Tensor,
        ends: Tensor,
        groups: Tensor | None,
        entropy_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        """Score each selected token through its node in the prefix tree of the rows; nothing is computed twice.

        What comes after the last selected token of a row, `ends` (B,), is not computed at all.
        """
        if any(getattr(module, "gradient_checkpointing", False) for module in self.model.modules()):
            raise TrainingError(
                "Shared prefixes do not go with gradient checkpointing, which would recompute without them: switch "
                "one of them off (update.share_prefixes=false)."
            )
        # A row without a selected token keeps its first one, so that the model never runs on nothing.
        tree = pack(input_ids, ends.clamp(min=1), groups)
        scored, number = tree.nodes[rows, columns].unique(return_inverse=True)
        hidden = self._along(tree)[tree.parents[scored]]
        logprobs, entropies = self._score(hidden, tree.tokens[scored], entropy_gradient)
        return logprobs[number], entropies[number]

    def _before(self, input_ids: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Return what predicts each selected token: hidden states (M, D), or logits (M, V) where the model is whole.

        Padding on the right needs no attention mask: causal attention of real tokens never reaches it.
        """
        return self._run(input_ids)[rows, columns - 1]

    def _before_packed(self, input_ids: Tensor, rows: Tensor, columns: Tensor, ends: Tensor) -> Tensor:
        """Return what `_before` does, from one row of all rows' tokens up to their last selected one, `ends` (B,)."""
        ends = ends.clamp(min=1)  # So that the model never runs on nothing.
        numbers = torch.arange(input_ids.shape[1], device=input_ids.device)
        real = numbers < ends.unsqueeze(1)
        arguments: dict[str, Any] = {"position_ids": numbers.expand_as(real)[real].unsqueeze(0)}
        if "flash" in self.model.config._attn_implementation:
            # Said outright: guessed from positions, rows of one token would be taken for one row.
            bounds = pad(ends.cumsum(0), (1, 0)).to(torch.int32)
            longest = int(ends.max())
            arguments |= {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
            arguments |= {"max_length_q": longest, "max_length_k": longest}
        starts = ends.cumsum(0) - ends
        return self._run(input_ids[real].unsqueeze(0), **arguments)[0][starts[rows] + columns - 1]

    def _along(self, tree: PrefixTree) -> Tensor:
        """Return what predicts the child of each node (N, ...), as `_before` does."""
        with attending_through(self.model, NAME):
            return self._run(tree.tokens.unsqueeze(0), position_ids=tree.depths.unsqueeze(0), prefix_tree=tree)[0]

    def _run(self, input_ids: Tensor, **arguments: Any) -> Tensor:
        """Return the last hidden states (B, T, D), or the logits (B, T, V) of a model that is whole."""
        if self.splits:
            hidden: Tensor = self.model.base_model(input_ids=input_ids, use_cache=False, **arguments).last_hidden_state
            return hidden
        logits: Tensor = self.model(input_ids=input_ids, use_cache=False, **arguments).logits
        return logits

    def _can_share(self) -> bool:
        """Return whether the nodes of a small tree are to the model what they are in rows of their own."""
        rows = self._probe_rows()
        tree = pack(rows, torch.full((len(rows),), rows.shape[1], device=rows.device))
        return self._agree(lambda: self._run(rows), lambda: self._along(tree)[tree.nodes])

    def _can_pack(self) -> bool:
        """Return whether tokens of small rows laid end to end are to the model what they are in rows of their own."""
        ids = self._probe_rows()
        ends = torch.tensor([5, 1, 3, 1], device=ids.device)
        rows, columns = (torch.arange(5, device=ids.device) < ends.unsqueeze(1)).nonzero(as_tuple=True)
        return self._agree(
            lambda: self._run(ids)[rows, columns], lambda: self._before_packed(ids, rows, columns + 1, ends)
        )

    def _probe_rows(self) -> Tensor:
        rows = [[3, 1, 4, 1, 5], [3, 1, 4, 2, 6], [2, 7, 1, 8, 2], [3, 1, 9, 9, 9]]
        return torch.tensor(rows, device=self.model.device) % self.vocabulary

    def _agree(self, alone: Callable[[], Tensor], packed: Callable[[], Tensor]) -> bool:
        """Return whether two ways to run the model on a probe give the same; False where one does not run at all."""
        kinds = set(getattr(self.model.config, "layer_types", None) or ())
        if not kinds <= {"full_attention", "sliding_attention"}:
            return False  # Attention in chunks, say, differs from other attention only beyond the length of any probe.
        try:
            with _probing(self.model):
                one, other = alone(), packed()
        except (NotImplementedError, TypeError, ValueError, AttributeError, RuntimeError, KeyError):
            return False
        tolerance = max(1e-3, 8 * torch.finfo(one.dtype).eps)
        return bool((other - one).norm() <= tolerance * one.norm())

    def _score(self, hidden: Tensor, targets: Tensor, entropy_gradient: bool) -> tuple[Tensor, Tensor]:
        size = max(1, CHUNK_ELEMENTS // self.vocabulary)
        if len(targets) <= size:
            return self._score_chunk(hidden, targets, entropy_gradient)
        head = self.model.get_output_embeddings() if self.splits else None
        if head is not None and can_fuse(head):
            return token_scores(
                hidden,
                head.weight,
                head.bias,
                targets,
                temperature=self.temperature,
                rows=size,
                entropy_gradient=entropy_gradient,
            )
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
    try:
        with _probing(model):
            whole = model(input_ids=probe).logits
            split = head(model.base_model(input_ids=probe, use_cache=False).last_hidden_state)
    except (TypeError, AttributeError, RuntimeError):
        return False
    return whole.shape == split.shape and torch.allclose(whole, split, atol=1e-4, rtol=1e-3)


@contextmanager
def _probing(model: PreTrainedModel) -> Iterator[None]:
    """Switch dropout and gradients off inside the block."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
