"""Models and tokenizers from folders, with errors that say what to do."""

from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from agent_gym.engines.adapters import base_of, is_adapter, load_adapter
from agent_gym.errors import EngineError

_LOADING = (OSError, ValueError, RuntimeError, KeyError)
"""What transformers raises for files that it cannot use."""


def load_model(
    path: str, *, dtype: str = "auto", attention: str = "auto", trainable: bool = False
) -> tuple[PreTrainedModel, Any]:
    """Load a causal model and its tokenizer.

    Args:
        path: A folder in Hugging Face's format, the name of a model on the hub ("Qwen/Qwen3-4B"), or a folder with a
            LoRA adapter, which is put into its base model.
        dtype: Of the weights: "float32", "bfloat16", or "auto" for what they are stored in. Adapters are float32.
        attention: Which implementation the model uses; "auto" leaves it to transformers.
        trainable: Whether an adapter is trained on.

    Raises:
        EngineError: There is no such folder or model, or it cannot be loaded.
        MissingExtraError: The folder holds an adapter, and peft is not installed.
    """
    folder = Path(path).expanduser()
    if is_adapter(folder):
        model = _load(base_of(folder), dtype, attention)
        load_adapter(model, folder, trainable=trainable)
        return model.eval(), load_tokenizer(path)
    looks_local = path.startswith((".", "/", "~")) or folder.exists() or path.count("/") != 1
    if looks_local and not (folder / "config.json").is_file():
        raise EngineError(
            f"There is no model in {path}: give a folder that holds config.json and weights, the name of a model on "
            "the hub, or 'tiny'."
        )
    model = _load(path, dtype, attention)
    try:
        return model, AutoTokenizer.from_pretrained(path)
    except _LOADING as error:
        raise EngineError(f"The model {path} cannot be loaded: {_reason(error)}") from error


def _load(path: str, dtype: str, attention: str) -> PreTrainedModel:
    arguments = {} if attention == "auto" else {"attn_implementation": attention}
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **arguments)
    except (*_LOADING, ImportError) as error:
        raise EngineError(f"The model {path} cannot be loaded: {_reason(error)}") from error
    return model


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
