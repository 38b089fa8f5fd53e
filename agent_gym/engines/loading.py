"""Models and tokenizers from folders, with errors that say what to do."""

from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from agent_gym.errors import EngineError

_LOADING = (OSError, ValueError, RuntimeError, KeyError)
"""What transformers raises for files that it cannot use."""


def load_model(path: str) -> tuple[PreTrainedModel, Any]:
    """Load a causal model and its tokenizer.

    Args:
        path: A folder in Hugging Face's format, or the name of a model on the hub ("Qwen/Qwen3-4B").

    Raises:
        EngineError: There is no such folder or model, or it cannot be loaded.
    """
    folder = Path(path)
    looks_local = path.startswith((".", "/", "~")) or folder.exists() or path.count("/") != 1
    if looks_local and not (folder.expanduser() / "config.json").is_file():
        raise EngineError(
            f"There is no model in {path}: give a folder that holds config.json and weights, the name of a model on "
            "the hub, or 'tiny'."
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except _LOADING as error:
        raise EngineError(f"The model {path} cannot be loaded: {_reason(error)}") from error
    return model, tokenizer


def load_tokenizer(path: str) -> Any:
    """Load a tokenizer without its model.

    Args:
        path: A folder, or the name of a model on the hub.

    Raises:
        EngineError: There is no such tokenizer, or it cannot be loaded.
    """
    try:
        return AutoTokenizer.from_pretrained(path)
    except _LOADING as error:
        raise EngineError(f"The tokenizer {path} cannot be loaded: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
