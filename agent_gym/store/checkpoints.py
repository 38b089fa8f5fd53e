"""Checkpoints: a folder in Hugging Face's format, plus what a run needs to go on as if nothing had happened."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from agent_gym.errors import StoreError
from agent_gym.store.atomic import new_folder, write_json
from agent_gym.store.run import RunFolder


def save(
    run: RunFolder,
    step: int,
    *,
    model: Any,
    tokenizer: Any,
    training: dict[str, Any],
    keep: int,
    weights: dict[str, Any] | None = None,
) -> Path:
    """Write the checkpoint after `step` steps and remove the oldest beyond `keep`.

    Args:
        run: The run's folder.
        step: Steps done.
        model: Saved with `save_pretrained`, so that any engine can load the folder.
        tokenizer: Likewise.
        training: What training goes on with: states of optimiser, controllers, buffers; tensors and plain values.
        keep: Checkpoints to keep, this one included.
        weights: Those of the model by name, where it holds only a part of them itself.

    Raises:
        StoreError: It cannot be written; earlier checkpoints stay.
    """
    path = run.checkpoint_path(step)
    try:
        with new_folder(path) as folder:
            model.save_pretrained(folder, **({} if weights is None else {"state_dict": weights}))
            tokenizer.save_pretrained(folder)
            torch.save(training, folder / "training.pt")
            write_json(folder / "state.json", {"step": step})
    except StoreError:
        raise
    except Exception as error:
        # torch, safetensors and tokenizers each report a full disk as an error of their own.
        raise StoreError(f"The checkpoint {path} cannot be written: {error}; free some space and --resume.") from error
    for old in run.checkpoints()[:-keep]:
        shutil.rmtree(run.checkpoint_path(old), ignore_errors=True)
    return path


def load_state(path: Path) -> dict[str, Any]:
    """Return what a checkpoint's training goes on with.

    Raises:
        StoreError: It cannot be read.
    """
    try:
        state: dict[str, Any] = torch.load(path / "training.pt", weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise StoreError(f"The checkpoint {path} cannot be read: {error}; remove it to use the one before.") from error
    return state
