"""Answers compared as texts: the measures of SQuAD and HotpotQA.

Source: Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text", 2016; Yang et al., "HotpotQA: A
Dataset for Diverse, Explainable Multi-hop Question Answering", 2018 (their evaluation scripts).
"""

import re
import string
from collections import Counter
from collections.abc import Iterable
from typing import Final

_ARTICLES: Final = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION: Final = frozenset(string.punctuation)
_VERDICTS: Final = frozenset(("yes", "no", "noanswer"))
"""Answers of which a part is worth nothing."""


def normalise(answer: str) -> str:
    """Return an answer in lower case, without punctuation, articles and superfluous white space."""
    kept = "".join(character for character in answer.lower() if character not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def exact_match(answer: str, gold: Iterable[str]) -> float:
    """Return 1 if an answer is one of the right ones, normalised, else 0."""
    found = normalise(answer)
    return float(any(found == normalise(right) for right in gold))


def f1_score(answer: str, gold: Iterable[str]) -> float:
    """Return the F1 of an answer's words against those of the right answer that it is nearest to, in [0, 1].

    "yes" and "no" must match as they are: a word more or less makes them wrong.
    """
    return max((_f1(normalise(answer), normalise(right)) for right in gold), default=0.0)


def _f1(found: str, right: str) -> float:
    if found == right:
        return 1.0
    if found in _VERDICTS or right in _VERDICTS:
        return 0.0
    found_words, right_words = found.split(), right.split()
    shared = sum((Counter(found_words) & Counter(right_words)).values())
    return 2 * shared / (len(found_words) + len(right_words)) if shared else 0.0
