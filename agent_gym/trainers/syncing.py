"""New weights for the engine that samples, and the check that they have arrived.

An engine that takes weights from outside may say yes and keep its old ones (vLLM on processors did), and training on
what it samples then goes wrong slowly. So engines compare sums over all weights (`engines.fingerprint`), which see the
smallest update, and after each handing over a few tokens are scored on both sides here, which see weights that are
whole and in the wrong place.
"""

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from agent_gym.engines.adapters import adapter_weights, has_adapters
from agent_gym.engines.base import Engine
from agent_gym.errors import EngineError
from agent_gym.sections import EngineSection
from agent_gym.trainers.processes import Processes
from agent_gym.trainers.sampling import Sampler
from agent_gym.trainers.scorer import TokenScorer
from agent_gym.trainers.weights import named_weights

_PROBE_TOKENS = 24


@contextmanager
def _used_up(weights: Iterator[tuple[str, Tensor]]) -> Iterator[None]:
    """Iterate along to the end, whatever happens in the block: other processes, which hold parts of them, do so too."""
    try:
        yield
    finally:
        for _ in weights:
            pass


def probe_ids(vocabulary: int) -> list[int]:
    """Return a few tokens, the same ones each time."""
    rng = random.Random(0)
    return [rng.randrange(vocabulary) for _ in range(_PROBE_TOKENS)]


@torch.no_grad()
def probe_logprobs(scorer: TokenScorer, ids: Sequence[int]) -> list[float]:
    """Return the trainer's log-probability, at temperature 1, of each token after the first."""
    device = next(scorer.parameters()).device
    rows = torch.tensor([list(ids)], device=device)
    mask = torch.ones(rows.shape, device=device)
    mask[:, 0] = 0
    scorer.eval()
    temperature, scorer.temperature = scorer.temperature, 1.0
    try:
        logprobs, _ = scorer(rows, mask)
    finally:
        scorer.temperature = temperature
    values: list[float] = logprobs[0, 1:].float().tolist()
    return values


def hand_over(
    sampler: Sampler,
    model: PreTrainedModel,
    scorer: TokenScorer,
    processes: Processes,
    *,
    step: int,
    ids: Sequence[int],
) -> None:
    """Let an engine that does not work on the trainer's model sample with its weights, and find out that it does.

    Args:
        sampler: Runs the engine.
        model: The trainer's; where it is spread over processes, all of them come here at once.
        scorer: What says the trainer's log-probabilities.
        processes: Those that train together.
        step: Steps done.
        ids: Tokens to compare by.

    Raises:
        EngineError: The engine cannot take the weights, or does not use them.
    """
    engine, section = sampler.engine, sampler.config.engine
    weights = adapter_weights(model) if engine.takes_adapter else named_weights(model)
    with processes.together(), _used_up(weights):
        sampler.updated(weights, step)
    sampler.call(engine.wake())
    expected = probe_logprobs(scorer, ids)
    with processes.together():
        # Servers are the same for everybody, and process 0 has told them.
        if processes.is_main or section.kind != "server":
            allowed = tolerance(section, model.dtype, mixed=processes.accelerator.mixed_precision != "no")
            sampler.call(check_arrival(engine, ids, expected, tolerance=allowed))


def tolerance(section: EngineSection, dtype: torch.dtype, *, mixed: bool = False) -> float:
    """Return by how much log-probabilities may differ: by default 0.005 where both sides compute in float32, else 0.1.

    Args:
        section: Of the engine.
        dtype: Of the trainer's weights.
        mixed: Whether the trainer computes in 16 bits with them.
    """
    return section.allowed_difference(exact=dtype == torch.float32 and not mixed)


async def check_arrival(engine: Engine, ids: Sequence[int], expected: Sequence[float], *, tolerance: float) -> None:
    """Compare what engine and trainer say of the same tokens.

    Args:
        engine: One that can score; others are trusted.
        ids: The tokens.
        expected: The trainer's log-probabilities of those after the first.
        tolerance: Largest difference of two log-probabilities.

    Raises:
        EngineError: They differ by more than the tolerance, or the engine's are not numbers.
    """
    scored = await engine.score(list(ids))
    if scored is None:
        return
    differences = [abs(one - other) for one, other in zip(scored, expected, strict=True)]
    # What is no number is never the largest for `max`, unless it comes first.
    difference = math.nan if any(map(math.isnan, differences)) else max(differences, default=0.0)
    # A difference that is no number is above any tolerance.
    if not difference <= tolerance:
        remedy = "hand the weights over in another way (engine.sync)"
        if engine.takes_adapter:
            remedy = "restart the servers, as an earlier run may have replaced the base that the adapter belongs to"
        raise EngineError(
            f"{engine} has taken new weights and does not use them: its log-probabilities differ from "
            f"the trainer's by up to {difference:.3g}, more than {tolerance:g} (engine.tolerance); look at its log, or "
            f"{remedy}."
        )


def whole_model(model: PreTrainedModel, processes: Processes) -> dict[str, Tensor] | None:
    """Return the weights of a model that is spread over processes, on process 0 alone; all of them must ask."""
    weights: dict[str, Tensor] = {}
    for name, tensor in adapter_weights(model) if has_adapters(model) else named_weights(model):
        if processes.is_main:
            weights[name] = tensor.cpu()
    return weights if processes.is_main else None
