"""Which engine a configuration means. Nothing of an engine is imported before it is chosen."""

import copy
from typing import TYPE_CHECKING, Any

from agent_gym.engines.base import Engine
from agent_gym.errors import ConfigError
from agent_gym.sections import EngineSection

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def make_engine(
    section: EngineSection,
    *,
    model: Any,
    tokenizer: Any,
    max_batch: int,
    shared: bool = True,
    pushes: bool = True,
    device: Any = None,
) -> Engine:
    """Make the engine of a configuration.

    An engine that does not share the trainer's model samples with it only after the first `sync`.

    Args:
        section: Which engine.
        model: The trainer's.
        tokenizer: The trainer's.
        max_batch: Requests in flight, at most.
        shared: Whether an engine in this process may work on `model` itself; otherwise on a copy of its own.
        pushes: Whether this process hands new weights to servers; of many trainers' processes one does.
        device: Where a copy of the model works; by default where the model is.

    Raises:
        EngineError: The engine cannot be reached or made.
        MissingExtraError: It needs a package that is not installed.
        ConfigError: A key has no effect on it.
    """
    if section.kind == "vllm":
        from agent_gym.engines.vllm import VllmEngine

        given = {} if section.dtype == "auto" else {"dtype": section.dtype}
        return VllmEngine.twin(
            model,
            tokenizer,
            top_logprobs=section.top_logprobs,
            max_batch=max_batch,
            memory_share=section.memory_share,
            cache_gib=section.cache_gib,
            eager=section.eager,
            tensor_parallel=section.tensor_parallel,
            sleep=section.sleep,
            timeout=section.timeout,
            sync_timeout=section.sync_timeout,
            start_timeout=section.start_timeout,
            options=section.vllm,
            **given,
        )
    if section.kind == "server":
        from agent_gym.engines.vllm_server import connect

        return connect(section, model=model, max_batch=max_batch, pushes=pushes)
    from agent_gym.engines.transformers import TransformersEngine

    if shared and (unheeded := section.changed & {"dtype", "tolerance"}):
        raise ConfigError(
            f"engine.{min(unheeded)} is for an engine with weights of its own, and this one works on the trainer's "
            "model: leave it out (model.dtype is the model's)."
        )
    own = model if shared else _twin(model, section.dtype, device)
    return TransformersEngine(own, tokenizer, max_batch=max_batch)


def shares_model(section: EngineSection) -> bool:
    """Return whether the engine may work on the trainer's own model."""
    return section.kind == "transformers"


def _twin(model: Any, dtype: str, device: Any) -> "PreTrainedModel":
    """Return a model of the same shape, whose weights are still random: those of `model` may be spread over ranks."""
    import torch
    from transformers import AutoModelForCausalLM

    chosen = next(model.parameters()).dtype if dtype == "auto" else getattr(torch, dtype)
    # What is drawn here must not move the numbers that training draws.
    with torch.random.fork_rng(devices=[]):
        # Its own configuration: which attention runs is written there, and the two models run at the same time.
        twin = AutoModelForCausalLM.from_config(copy.deepcopy(model.config), dtype=chosen)
    twin.generation_config = copy.deepcopy(model.generation_config)
    twin.requires_grad_(False)
    return twin.to(device or next(model.parameters()).device).eval()
