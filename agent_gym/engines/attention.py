"""Attention of our own in a Hugging Face model: the model's own code runs all the rest."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel


def register_attention(name: str, function: Callable[..., Any]) -> None:
    """Let models attend through a function by this name; they are spared the building of a mask."""
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, _no_mask)


@contextmanager
def attending_through(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Let a model attend through the function of this name inside the block, and as before after it."""
    before = model.config._attn_implementation
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = before


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Make no mask over a packed row: an attention function of our own knows who sees whom."""
    return None
