"""Reading what an OpenAI-compatible server answers. It is checked: a server may send anything."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent_gym.engines.base import Usage
from agent_gym.engines.prices import Price
from agent_gym.engines.topk import estimated_entropy

_BYTES_PER_TOKEN = 4


class WrongAnswerError(ValueError):
    """An answer is not what the protocol says; the message ends the sentence "The server answered ..."."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token as a server reports it."""

    text: bytes
    logprob: float
    entropy: float | None
    """Estimated in nats; None where the server names no alternatives."""


def choice_of(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the only choice of an answer.

    Raises:
        WrongAnswerError: There is none.
    """
    choices = content.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise WrongAnswerError("without choices")
    return choices[0]


def finish_reason(choice: Mapping[str, Any]) -> str:
    """Return why the generation ended, in the words of `Completion.finish_reason`."""
    reason = choice.get("finish_reason")
    return str(reason) if reason in ("length", "content_filter") else "stop"


def usage_of(
    content: Mapping[str, Any], price: Price | None, retries: int, sizes: tuple[int, int]
) -> tuple[Usage, bool]:
    """Return the usage that an answer reports, and whether it does.

    Args:
        content: The answer.
        price: Of the model; None where it is not known.
        retries: Requests that failed before.
        sizes: Bytes or tokens of prompt and answer, from which the usage is taken where the server is silent.

    Raises:
        WrongAnswerError: A count is no count.
    """
    usage = content.get("usage")
    if not isinstance(usage, Mapping):
        return Usage(*sizes, None, retries), False
    read, generated = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    return Usage(read, generated, None if price is None else price.cost(read, generated), retries), True


def tokens_in_bytes(count: int) -> int:
    """Return about how many tokens so many bytes of text are."""
    return -(-count // _BYTES_PER_TOKEN)


def chat_tokens(choice: Mapping[str, Any]) -> list[Token]:
    """Return the tokens of a chat's answer; none where the server reports none.

    Raises:
        WrongAnswerError: A log-probability is none.
    """
    logprobs = choice.get("logprobs")
    entries = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    tokens = []
    for entry in entries or ():
        if not isinstance(entry, Mapping) or not isinstance(entry.get("token"), str):
            raise WrongAnswerError("with log-probabilities that have no tokens")
        top = entry.get("top_logprobs") or ()
        alternatives = {str(each.get("token")): logprob_of(each.get("logprob")) for each in top}
        logprob = logprob_of(entry.get("logprob"))
        entropy = estimated_entropy({**alternatives, entry["token"]: logprob}.values()) if alternatives else None
        tokens.append(Token(_token_bytes(entry), logprob, entropy))
    return tokens


def logprob_of(value: Any) -> float:
    """Return a log-probability; one that rounding has put above 0 is 0.

    Raises:
        WrongAnswerError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value > 1e-3:
        raise WrongAnswerError(f"with {value!r} as a log-probability")
    return min(0.0, float(value))


def laid_over(text: bytes, tokens: Sequence[Token]) -> tuple[list[float], list[float]] | None:
    """Lay tokens over the bytes of a text that they contain.

    Returns:
        For each byte a log-probability and an entropy: the first byte of a token has its log-probability and the others
        0, so that sums are right; each byte has its token's entropy, so that means are. None where the text is not
        in the tokens, or a token has no entropy.
    """
    start = b"".join(token.text for token in tokens).rfind(text)
    if start < 0 or any(token.entropy is None for token in tokens):
        return None
    logprobs, entropies = [0.0] * len(text), [0.0] * len(text)
    position = -start
    for token in tokens:
        end = position + len(token.text)
        for place in range(max(0, position), min(end, len(text))):
            entropies[place] = token.entropy or 0.0
        if 0 <= position < len(text):
            logprobs[position] = token.logprob
        position = end
    return logprobs, entropies


def _token_bytes(entry: Mapping[str, Any]) -> bytes:
    raw = entry.get("bytes")
    if isinstance(raw, list) and all(isinstance(each, int) and 0 <= each < 256 for each in raw):
        return bytes(raw)
    return str(entry["token"]).encode("utf-8", "replace")


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise WrongAnswerError(f"with {value!r} as a number of tokens")
    return value
