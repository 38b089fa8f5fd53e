"""What vLLM's servers are asked for, and reading what they answer, in both of the ways that they take token ids.

`/inference/v1/generate` takes and gives token ids alone (a server started with --enable-scale-out); `/v1/completions`
every server has. Everything is checked: numbers that are wrong would be trained on.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from agent_gym.engines.base import Completion, Sampling
from agent_gym.engines.openai_answers import WrongAnswerError, choice_of, logprob_of
from agent_gym.engines.topk import estimated_entropy

GENERATE, COMPLETIONS = "/inference/v1/generate", "/v1/completions"
_LARGEST_SEED = 2**63 - 1
_LEAST = -1000.0
"""vLLM writes -9999 where it has computed no number; no token is drawn with such a log-probability."""


def parameters(sampling: Sampling, stop_ids: Sequence[int], top_logprobs: int) -> dict[str, Any]:
    """Return how to sample, in vLLM's words; what a server might do otherwise by itself is spelled out.

    Args:
        sampling: How.
        stop_ids: Tokens that end every generation.
        top_logprobs: How many of the most probable tokens to name at each place.
    """
    chosen: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "seed": sampling.seed & _LARGEST_SEED,
        "logprobs": top_logprobs,
        "stop_token_ids": sorted({*stop_ids, *sampling.stop_token_ids}),
        "skip_special_tokens": False,
    }
    return {**chosen, "stop": list(sampling.stop)} if sampling.stop else chosen


def body(path: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request without model and prompt."""
    if path == GENERATE:
        return {"sampling_params": dict(chosen)}
    return {
        **chosen,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "add_special_tokens": False,
    }


def prompt_member(path: str) -> str:
    """Return the name of the member of a request that holds the prompt."""
    return "token_ids" if path == GENERATE else "prompt"


def read_completion(path: str, content: Mapping[str, Any], sampling: Sampling, *, vocabulary: int) -> Completion:
    """Read the answer to a request.

    Args:
        path: What was asked.
        content: The answer.
        sampling: What was asked for.
        vocabulary: Ids must be below this.

    Raises:
        WrongAnswerError: It is not what was asked for.
    """
    choice = choice_of(content)
    token_ids = choice.get("token_ids")
    if not isinstance(token_ids, list) or not all(type(each) is int for each in token_ids):
        raise WrongAnswerError("without token ids")
    if not 1 <= len(token_ids) <= sampling.max_tokens:
        raise WrongAnswerError(f"with {len(token_ids)} tokens where 1 to {sampling.max_tokens} were asked for")
    outside = [each for each in token_ids if not 0 <= each < vocabulary]
    if outside:
        raise WrongAnswerError(f"with the token id {outside[0]}, which the model of {vocabulary} tokens does not have")
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, Mapping):
        raise WrongAnswerError("without log-probabilities")
    places = _places(path, logprobs)
    if len(places) != len(token_ids):
        raise WrongAnswerError(f"with {len(token_ids)} tokens and {len(places)} log-probabilities")
    chosen = [_logprob(own) for own, _ in places]
    entropies = [
        _entropy(str(token), logprob, named)
        for token, logprob, (_, named) in zip(token_ids, chosen, places, strict=True)
    ]
    reason = choice.get("finish_reason")
    if reason not in ("stop", "length"):
        raise WrongAnswerError(f"with an unfinished generation ({reason!r})")
    return Completion(list(token_ids), chosen, entropies, reason, exact_entropy=False)


def weights_label(content: Mapping[str, Any]) -> str | None:
    """Return what the server calls the weights that an answer began with; None where it does not say."""
    spans = choice_of(content).get("weight_versions")
    first = spans[0] if isinstance(spans, list) and spans else None
    label = first.get("version") if isinstance(first, Mapping) else None
    return label if isinstance(label, str) else None


def read_scores(path: str, content: Mapping[str, Any], token_ids: Sequence[int]) -> list[float]:
    """Read the log-probabilities of a prompt's tokens after the first.

    Raises:
        WrongAnswerError: They are not there.
    """
    holder = content if path == GENERATE else choice_of(content)
    places = holder.get("prompt_logprobs")
    if not isinstance(places, list) or len(places) != len(token_ids):
        raise WrongAnswerError("without the log-probabilities of the prompt")
    scores = []
    for token, place in zip(token_ids[1:], places[1:], strict=True):
        entry = place.get(str(token)) if isinstance(place, Mapping) else None
        if not isinstance(entry, Mapping):
            raise WrongAnswerError("without the log-probabilities of the prompt")
        scores.append(_logprob(entry.get("logprob")))
    return scores


def likeliest(path: str, content: Mapping[str, Any]) -> float:
    """Return the log-probability of the most probable token at the first place.

    Raises:
        WrongAnswerError: It is not there.
    """
    logprobs = choice_of(content).get("logprobs")
    places = _places(path, logprobs) if isinstance(logprobs, Mapping) else []
    if not places or not places[0][1]:
        raise WrongAnswerError("without log-probabilities")
    return max(places[0][1].values())


_Place = tuple[Any, dict[str, float]]
"""A sampled token's log-probability as the server says it, and those of the most probable tokens by their ids."""


def _entropy(token: str, logprob: float, named: Mapping[str, float]) -> float:
    others = [each for name, each in named.items() if name != token]
    # What is named beside the token drawn are the most probable ones: none that is left out exceeds the last of them.
    return estimated_entropy([*others, logprob], min(others, default=0.0))


def _places(path: str, logprobs: Mapping[str, Any]) -> list[_Place]:
    return _generated(logprobs) if path == GENERATE else _completed(logprobs)


def _generated(logprobs: Mapping[str, Any]) -> list[_Place]:
    places = []
    for entry in _listed(logprobs.get("content")):
        if not isinstance(entry, Mapping):
            raise WrongAnswerError("without log-probabilities")
        named = {}
        for each in _listed(entry.get("top_logprobs") or []):
            if not isinstance(each, Mapping):
                raise WrongAnswerError("without log-probabilities")
            named[str(each.get("token_id"))] = logprob_of(each.get("logprob"))
        places.append((entry.get("logprob"), named))
    return places


def _completed(logprobs: Mapping[str, Any]) -> list[_Place]:
    values = _listed(logprobs.get("token_logprobs"))
    tops = _listed(logprobs.get("top_logprobs") or [None] * len(values))
    if len(tops) != len(values):
        raise WrongAnswerError(f"with {len(values)} log-probabilities and {len(tops)} lists of probable tokens")
    places = []
    for value, top in zip(values, tops, strict=True):
        if top is not None and not isinstance(top, Mapping):
            raise WrongAnswerError("without log-probabilities")
        named = {str(name).removeprefix("token_id:"): logprob_of(each) for name, each in (top or {}).items()}
        places.append((value, named))
    return places


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise WrongAnswerError("without log-probabilities")
    return value


def _logprob(value: Any) -> float:
    logprob = logprob_of(value)
    if logprob < _LEAST:
        raise WrongAnswerError(f"with {value!r} as the log-probability of a token that it drew")
    return logprob
