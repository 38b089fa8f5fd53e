"""Drawing tokens from logits, with random numbers that depend on the request alone."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seeds: Sequence[int], counters: Sequence[int]) -> Tensor:
    """Return one number in [0, 1) for each (seed, counter) pair, shape (R,), float64.

    A counter-based generator (splitmix64) has no state: token t of a request gets the same number whatever else is
    sampled beside it. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    with np.errstate(over="ignore"):
        seed = np.array([s & 0xFFFFFFFFFFFFFFFF for s in seeds], dtype=np.uint64)
        z = _mix(seed + _GOLDEN) + np.asarray(counters, dtype=np.uint64) * _GOLDEN
        z = _mix(z + _GOLDEN)
    return torch.from_numpy((z >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def draw(
    logits: Tensor, temperatures: Tensor, uniform: Tensor, top_p: Tensor | None = None, top_k: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one token a row by inverting the cumulative distribution.

    Args:
        logits: (R, V), any float type.
        temperatures: (R,); 0 takes the most probable token.
        uniform: (R,) numbers in [0, 1).
        top_p: (R,) or None; keep the smallest set of most probable tokens whose mass reaches it.
        top_k: (R,) integers or None; keep so many most probable tokens, 0 keeps all.

    Returns:
        Tokens (R,), their log-probabilities (R,) and the entropies (R,) in nats, both of the distribution after
        temperature and before top_p and top_k.
    """
    greedy = temperatures == 0
    scaled = logits.float() / torch.where(greedy, 1.0, temperatures).unsqueeze(1)
    logprobs = scaled.log_softmax(-1)
    probabilities = logprobs.exp()
    entropies = -(probabilities * logprobs.clamp(min=-1e9)).sum(-1)
    kept = probabilities if top_p is None and top_k is None else _truncate(probabilities, top_p, top_k)
    cumulative = kept.double().cumsum(-1)
    threshold = uniform.to(cumulative.device).unsqueeze(1) * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, threshold, right=True).squeeze(1)
    tokens = torch.where(greedy, scaled.argmax(-1), tokens)
    return tokens, logprobs.gather(1, tokens.unsqueeze(1)).squeeze(1), entropies


def _truncate(probabilities: Tensor, top_p: Tensor | None, top_k: Tensor | None) -> Tensor:
    """Set to zero what top_p and top_k cut off; the most probable token always stays."""
    ordered, order = probabilities.sort(-1, descending=True)
    keep = torch.ones_like(ordered, dtype=torch.bool)
    if top_p is not None:
        keep &= ordered.cumsum(-1) - ordered < top_p.unsqueeze(1)
    if top_k is not None:
        limit = torch.where(top_k == 0, probabilities.shape[1], top_k)
        keep &= torch.arange(probabilities.shape[1], device=probabilities.device) < limit.unsqueeze(1)
    keep[:, 0] = True
    return torch.zeros_like(probabilities).scatter(1, order, ordered * keep)
