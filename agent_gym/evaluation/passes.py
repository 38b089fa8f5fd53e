"""What k attempts at a task are worth: pass@k, pass^k, maj@k and best-of-k, without bias from n >= k attempts.

Each is the expectation over k of the n attempts, drawn without replacement. None where k > n: it cannot be known then,
and a guess from fewer attempts would be biased.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_EXACT_ATTEMPTS = 64
"""With more attempts the majority is sampled: the exact sum over a suite would take minutes then."""
_SAMPLES = 4000


def pass_at_k(attempts: int, successes: int, k: int) -> float | None:
    """Return the probability that at least one of k attempts succeeds.

    Args:
        attempts: n, attempts that were made.
        successes: c of them.
        k: Attempts that one would have.

    Returns:
        1 - C(n - c, k) / C(n, k); None for k > n.

    Source: Chen et al., "Evaluating large language models trained on code", 2021.
    """
    _check(attempts, successes, k)
    if k > attempts:
        return None
    # Whole numbers of any size are divided exactly, and rounded once.
    ways = math.comb(attempts, k)
    return (ways - math.comb(attempts - successes, k)) / ways


def pass_hat_k(attempts: int, successes: int, k: int) -> float | None:
    """Return the probability that all of k attempts succeed.

    Args:
        attempts: n, attempts that were made.
        successes: c of them.
        k: Attempts that all must succeed.

    Returns:
        C(c, k) / C(n, k); None for k > n.

    Source: Yao et al., "tau-bench", 2024.
    """
    _check(attempts, successes, k)
    if k > attempts:
        return None
    return math.comb(successes, k) / math.comb(attempts, k)


def best_of_k(scores: Sequence[float], k: int) -> float | None:
    """Return the expected highest score of k attempts.

    Args:
        scores: Of the n attempts, in any order.
        k: Attempts of which the best counts.

    Returns:
        The sum over the scores in rising order of s_i C(i - 1, k - 1) / C(n, k); None for k > n.
    """
    count = len(scores)
    _check(count, 0, k)
    if k > count:
        return None
    return float(np.sort(np.asarray(scores, dtype=np.float64)) @ _chances_of_being_best(count, k))


@lru_cache(maxsize=4096)
def _chances_of_being_best(count: int, k: int) -> NDArray[np.float64]:
    """Return for each rank, from the lowest, the probability that k draws have it as their highest."""
    ways = math.comb(count, k)
    return np.array([math.comb(rank, k - 1) / ways for rank in range(count)])


def majority_at_k(
    votes: Sequence[tuple[int, float]], k: int, *, silent: int = 0, rng: np.random.Generator, samples: int = _SAMPLES
) -> float | None:
    """Return the probability that the most frequent of k answers is right.

    An attempt without an answer has no vote; where none of the k has one, that is wrong. Of answers that are equally
    frequent each is chosen with the same probability. An answer that was judged right only in a share of its attempts
    counts with that share.

    Args:
        votes: For each distinct answer how many attempts gave it, and how many of those were right.
        k: Attempts that vote.
        silent: Attempts without an answer.
        rng: Where chance comes from: with more than 64 attempts the draws are sampled instead of summed exactly.
        samples: How many are drawn then.

    Returns:
        The probability; None for k > n.
    """
    counts = np.array([count for count, _ in votes], dtype=np.int64)
    right = np.array([right for _, right in votes], dtype=np.float64)
    total = int(counts.sum()) + silent
    _check(total, 0, k)
    if k > total:
        return None
    if len(counts) == 0:
        return 0.0
    if total > _EXACT_ATTEMPTS:
        return _sampled_majority(counts, right / counts, silent, k, rng, samples)
    return _exact_majority(counts, right / counts, silent, k)


def _exact_majority(counts: NDArray[np.int64], worth: NDArray[np.float64], silent: int, k: int) -> float:
    """Sum over the number of votes that the winner has.

    For each such number v, ways[t, u] counts the draws in which t answers have exactly v votes, all others fewer, and
    u votes are given in all; worths[t, u] sums what the t are worth over those draws.
    """
    logs = [[math.comb(int(count), votes) for votes in range(k + 1)] for count in (*counts, silent)]
    choose = np.array(logs, dtype=np.float64)
    result = 0.0
    for v in range(1, min(k, int(counts.max())) + 1):
        ties = min(k // v, int((counts >= v).sum()))
        ways = np.zeros((ties + 1, k + 1))
        worths = np.zeros_like(ways)
        ways[0, 0] = 1
        for row, share in zip(choose[:-1], worth, strict=True):
            ways, worths = (
                _times(ways, row[:v]) + _raised(ways, v, row[v]),
                _times(worths, row[:v]) + _raised(worths + share * ways, v, row[v]),
            )
        ways_of_silence = choose[-1, ::-1]
        shared = worths[1:] @ ways_of_silence
        result += float((shared / np.arange(1, ties + 1)).sum())
    return min(1.0, result / math.comb(int(counts.sum()) + silent, k))


def _times(polynomials: NDArray[np.float64], factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Multiply each row, a polynomial in the votes given, by another; what goes beyond k votes is dropped."""
    product = np.zeros_like(polynomials)
    for votes in np.flatnonzero(factors):
        product[:, votes:] += factors[votes] * polynomials[:, : polynomials.shape[1] - votes]
    return product


def _raised(polynomials: NDArray[np.float64], votes: int, factor: float) -> NDArray[np.float64]:
    """One more answer has the winner's number of votes."""
    raised = np.zeros_like(polynomials)
    raised[1:, votes:] = factor * polynomials[:-1, : polynomials.shape[1] - votes]
    return raised


def _sampled_majority(
    counts: NDArray[np.int64],
    worth: NDArray[np.float64],
    silent: int,
    k: int,
    rng: np.random.Generator,
    samples: int,
) -> float:
    drawn = rng.multivariate_hypergeometric([*counts, silent], k, size=samples, method="marginals")[:, :-1]
    most = drawn.max(axis=1, keepdims=True)
    winners = (drawn == most) & (most > 0)
    return float(((winners @ worth) / np.maximum(winners.sum(axis=1), 1)).mean())


def _check(attempts: int, successes: int, k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}.")
    if not 0 <= successes <= attempts:
        raise ValueError(f"successes must lie between 0 and {attempts}, not {successes}.")
