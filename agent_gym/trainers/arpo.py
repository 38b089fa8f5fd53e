"""ARPO: branch where the model becomes uncertain after it has read what the environment answered.

A group begins with fewer episodes than it shall have. Where the entropy of a generation has risen against the first
one of its episode, the episode is likely to branch there; the branches share what lies before, so that the same number
of trajectories costs fewer turns. The advantages are those of the base algorithm.

Source: Dong et al., "Agentic Reinforced Policy Optimization", arXiv 2507.19849; repository RUC-NLPIR/ARPO.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from agent_gym.errors import TrainingError

EntropyForm = Literal["mean", "sum"]


def branch_probability(entropy: float, initial_entropy: float, *, base: float = 0.5, weight: float = 0.2) -> float:
    """Probability that a rollout branches: base + weight * (entropy - initial entropy), kept in [0, 1].

    Paper and released code agree on the number. The paper branches where it exceeds a threshold, the released code
    draws with it ("u - weight * difference <= base", u uniform); the strategies here draw, too.

    Args:
        entropy: Of the segment that decides, see `segment_entropy`.
        initial_entropy: Of the first segment of the rollout.
        base: Probability at equal entropies.
        weight: What a difference of 1 adds.

    Source: ARPO, section 3.2 (alpha = base, beta = weight); vLLMRolloutWithTools.generate_sequences.
    """
    return clamped(base + weight * (entropy - initial_entropy))


def segment_entropy(
    entropies: Sequence[float], *, vocabulary: int, tokens: int = 20, form: EntropyForm = "mean"
) -> float:
    """How uncertain the model was at the beginning of a segment, in units of ln(vocabulary).

    Args:
        entropies: (n,) entropy in nats of each token of the segment; 0 comes out where there is none.
        vocabulary: Number of tokens that the entropies are over: the vocabulary, or k where they were estimated from
            the k most probable ones. At least 2.
        tokens: So many tokens at most, from the first one.
        form: "mean" over those tokens, in [0, 1]: segments of different lengths can be compared. "sum" is what the
            released code does, of entropies as in `truncated_entropy` and with the size of the vocabulary.

    Raises:
        TrainingError: The vocabulary has fewer than 2 tokens, or an entropy is not finite.

    Source: ARPO, section 3.1; vLLMRolloutWithTools._calc_entropy.
    """
    if vocabulary < 2:
        raise TrainingError(f"A vocabulary of {vocabulary} leaves nothing to be uncertain about: it takes at least 2.")
    first = entropies[:tokens]
    total = math.fsum(first)
    if not math.isfinite(total):
        raise TrainingError("An entropy of the sampling is not finite: look at the model's logits.")
    count = len(first) if form == "mean" else 1
    return total / max(count, 1) / math.log(vocabulary)


def truncated_entropy(logprobs: Sequence[float]) -> float:
    """Entropy in nats of what is known of a distribution, - sum p ln p over the given log-probabilities.

    Not renormalised: the part that is not known is taken to be nothing. The released code has the 10 most probable
    tokens of each position (and the sampled one), and puts those of 20 positions in one list, which sums up the same.

    Source: vLLMRolloutWithTools._calc_entropy.
    """
    return -math.fsum(math.exp(logprob) * logprob for logprob in logprobs)


def shared_prefix_attribution(advantages: Tensor, nodes: Tensor, mask: Tensor) -> Tensor:
    """Hard attribution: a token that several rows share gets the mean of their advantages.

    What all rows of a token get together stays the same. With the default, "soft" attribution (each row keeps its own)
    the gradient is the same at a ratio of 1 when losses are summed over tokens; the two differ by clipping and by the
    means over rows.

    Args:
        advantages: (B, T).
        nodes: (B, T) number of each token in the branch tree: equal where rows share the token and all before it.
        mask: (B, T), 1 on tokens that the model generated; others keep what they have.

    Returns:
        Advantages (B, T).

    Source: ARPO, section 3.3, "hard advantage estimation"; not in the released code.
    """
    chosen = mask.bool()
    values = advantages[chosen]
    _, index = nodes[chosen].unique(return_inverse=True)
    size = int(index.max()) + 1 if index.numel() else 0
    sums = values.new_zeros(size).index_add_(0, index, values)
    counts = values.new_zeros(size).index_add_(0, index, torch.ones_like(values))
    shared = advantages.clone()
    shared[chosen] = (sums / counts)[index]
    return shared


def clamped(value: float) -> float:
    """Return the nearest number in [0, 1]."""
    return min(max(value, 0.0), 1.0)
