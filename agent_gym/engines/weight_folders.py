"""Folders with weights for servers: a trainer writes them, servers read them, and none is left if it is killed."""

import fcntl
import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from agent_gym.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

_FILE_BYTES = 2 << 30
"""A file of weights is closed when it holds so much: no more than that is in memory twice."""
_PREFIX = "agent-gym-weights-"
_YOUNG = 60.0
"""Seconds after which a folder that nobody has locked is left over."""


class WeightFolder:
    """A new folder, which is its owner's until that removes it or dies.

    Args:
        inside: The folder that it is made in; made where it does not exist.

    Raises:
        EngineError: It cannot be made.
    """

    def __init__(self, inside: Path) -> None:
        try:
            inside.mkdir(parents=True, exist_ok=True)
            self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{socket.gethostname()}-", dir=inside))
        except OSError as error:
            raise no_room(inside, error) from error
        self._lock = _locked(self.path)

    def remove(self) -> None:
        """Remove the folder and what is in it; doing so twice does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def sweep(inside: Path) -> None:
    """Remove folders of weights that trainers of this machine have left when they were killed."""
    for path in inside.glob(f"{_PREFIX}{socket.gethostname()}-*"):
        try:
            young = time.time() - path.stat().st_mtime < _YOUNG
        except OSError:
            continue
        lock = None if young else _locked(path)
        if lock is not None:
            logger.info("%s was left by a run that has ended, and is removed.", path)
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def write_weights(folder: Path, weights: "Iterable[tuple[str, Tensor]]") -> None:
    """Write weights as safetensors files.

    Args:
        folder: It exists.
        weights: Names and whole tensors.

    Raises:
        EngineError: They cannot be written.
    """
    held: dict[str, Tensor] = {}
    size, number = 0, 0
    for name, tensor in weights:
        held[name] = tensor.detach().cpu().contiguous()
        size += held[name].nbytes
        if size >= _FILE_BYTES:
            _write(held, folder / f"{number:05d}.safetensors")
            held, size, number = {}, 0, number + 1
    if held:
        _write(held, folder / f"{number:05d}.safetensors")


def no_room(folder: Path, error: OSError) -> EngineError:
    """Return the error of a folder that nothing can be written to."""
    return EngineError(
        f"The weights for the servers cannot be written to {folder} ({error.strerror or error}): name another "
        "engine.sync_folder."
    )


def _write(tensors: "Mapping[str, Tensor]", path: Path) -> None:
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path)
    except OSError as error:
        raise no_room(path.parent, error) from error


def _locked(path: Path) -> int | None:
    """Lock a folder until the process ends; return None where another has it, or where there are no locks."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle
