"""How much a policy varies: entropy of its tokens, of its answers, and of what its answers mean. All in nats."""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

Scale = Callable[[float], float]


def token_entropy(entropies: Sequence[Sequence[float]], masks: Sequence[Sequence[int]]) -> float | None:
    """Return the mean over episodes of the mean entropy of an episode's generated tokens.

    Args:
        entropies: For each episode the entropy of each token's distribution, (T,) each.
        masks: 1 on the tokens that the model generated, (T,) each.

    Returns:
        The mean; None where nothing was generated. Episodes without a generated token are left out.

    Source: "The Invisible Leash", 2025, section 5.
    """
    means = []
    for values, mask in zip(entropies, masks, strict=True):
        chosen = np.asarray(values, dtype=np.float64)[np.asarray(mask, dtype=bool)]
        if len(chosen):
            means.append(float(chosen.mean()))
    return math.fsum(means) / len(means) if means else None


def answer_entropy(answers: Sequence[Hashable]) -> float | None:
    """Return the entropy of the answers to one task: -sum f ln f over the distinct ones.

    Args:
        answers: One an attempt; None, which stands for no answer, counts as an answer of its own.

    Returns:
        Between 0 and the logarithm of the number of distinct answers; None where there is no attempt.

    Source: "The Invisible Leash", 2025, section 5.
    """
    return entropy_of(list(Counter(answers).values())) if answers else None


def semantic_entropy(
    meanings: Sequence[Hashable], log_likelihoods: ArrayLike | None = None, *, form: Literal["A", "B"] = "B"
) -> float | None:
    """Return the entropy over what the answers to one task mean.

    Args:
        meanings: The cluster of each answer, (G,); each None, no answer, is a cluster of its own.
        log_likelihoods: Log-likelihood of each answer under the policy, over its number of tokens if long answers are
            not to weigh less, (G,). Where None every answer weighs the same.
        form: "B": -sum_k p_k ln p_k over the clusters' shares of the mass, at most ln K. "A": -mean_k ln p_k, which a
            rare cluster raises without bound.

    Returns:
        The entropy, unchanged where a constant is added to all log-likelihoods; None where there is no answer.

    Source: SEED-GRPO, 2025: form A as described, form B as in released ports; see docs/howto/statistics.md.
    """
    if not meanings:
        return None
    logs = np.zeros(len(meanings)) if log_likelihoods is None else np.asarray(log_likelihoods, dtype=np.float64)
    if logs.shape != (len(meanings),):
        raise ValueError(f"{len(meanings)} answers came with log-likelihoods of shape {logs.shape}: give one each.")
    clusters: dict[Hashable, float] = {}
    weights = np.exp(logs - logs.max())
    for place, (meaning, weight) in enumerate(zip(meanings, weights, strict=True)):
        key: Hashable = ("none", place) if meaning is None else ("some", meaning)
        clusters[key] = clusters.get(key, 0.0) + float(weight)
    masses = list(clusters.values())
    if form == "B":
        return entropy_of(masses)
    total = math.fsum(masses)
    if min(masses) == 0:
        return math.inf
    return max(0.0, -math.fsum(math.log(mass / total) for mass in masses) / len(masses))


def semantic_scale(
    entropy: float, answers: int, *, alpha: float = 0.0417, scale: Scale | Literal["port", "exponential", "linear"]
) -> float:
    """Return what SEED-GRPO multiplies the advantages of a task's answers by: less, the less certain they are.

    Args:
        entropy: Semantic entropy of the answers.
        answers: G of them; the largest entropy is ln G.
        alpha: How strongly.
        scale: "port": 1 / (1 + x), "exponential": exp(-x), "linear": max(0, 1 - x), or a function of x, which is
            alpha times the share that the entropy has of the largest.

    Returns:
        1 for a single answer, and where all mean the same.
    """
    function = SCALES[scale] if isinstance(scale, str) else scale
    if answers < 2:
        return function(0.0)
    return function(alpha * entropy / math.log(answers))


SCALES: dict[str, Scale] = {
    "port": lambda x: 1 / (1 + x),
    "exponential": lambda x: math.exp(-x),
    "linear": lambda x: max(0.0, 1 - x),
}
"""Each is 1 at 0, falls, and is never negative."""


def entropy_of(masses: Sequence[float]) -> float:
    """Return -sum p ln p over the shares that masses of any sum have of it.

    Args:
        masses: None below 0, one at least above it.
    """
    total = math.fsum(masses)
    return max(0.0, -math.fsum(mass / total * math.log(mass / total) for mass in masses if mass > 0))
