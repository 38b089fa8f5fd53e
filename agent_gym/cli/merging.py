"""`agent-gym merge`: a model folder of an adapter and its base."""

from pathlib import Path

from agent_gym.engines.adapters import is_adapter
from agent_gym.engines.loading import load_model
from agent_gym.errors import ConfigError, StoreError
from agent_gym.evaluation.models import model_folder
from agent_gym.store.atomic import new_folder
from agent_gym.trainers.weights import merge_adapters


def run_merge(model: str, to: Path, *, dtype: str = "auto") -> Path:
    """Write the model that an adapter makes of its base as a plain folder in Hugging Face's format.

    Args:
        model: A run that trained an adapter, or a folder with one.
        to: The folder; it must not exist.
        dtype: Of the weights that are written: "auto" for that of the base, "float32" or "bfloat16".

    Returns:
        Where it is.

    Raises:
        ConfigError: There is no adapter, or the folder exists.
        StoreError: It cannot be written.
    """
    source = Path(model_folder(model)).expanduser()
    if not is_adapter(source):
        raise ConfigError(f"{source} holds no adapter: there is nothing to merge, it can be used as it is.")
    if dtype not in ("auto", "float32", "bfloat16"):
        raise ConfigError(f"--dtype is auto, float32 or bfloat16, not {dtype!r}.")
    if to.exists():
        raise ConfigError(f"{to} exists: choose another --to, or remove it.")
    merged, tokenizer = load_model(str(source), dtype=dtype)
    merge_adapters(merged)
    try:
        with new_folder(to) as folder:
            merged.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except StoreError:
        raise
    except Exception as error:
        # safetensors and tokenizers report a full disk as errors of their own.
        raise StoreError(f"{to} cannot be written: {error}; free some space or choose another --to.") from error
    return to
