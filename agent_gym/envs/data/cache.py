"""The folder in which fetched data is kept. Knows nothing of what the data is or where it comes from."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agent_gym.errors import AgentGymError


class DataError(AgentGymError):
    """Data cannot be fetched, is not what was asked for, or cannot be kept."""


def cache_folder() -> Path:
    """Return the folder of fetched data; it need not exist yet.

    It is the environment variable AGENT_GYM_CACHE, else "agent_gym" in XDG_CACHE_HOME, else ~/.cache/agent_gym.
    """
    own = os.environ.get("AGENT_GYM_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "agent_gym"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to, which takes the place of `path` at the end; after an error the old file stays.

    Raises:
        DataError: It cannot be written.
    """
    # Two processes may make the same file: each writes its own, and the later one stays.
    partial = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with keeping(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            _sync(partial)
            partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()


@contextmanager
def keeping(path: Path) -> Iterator[None]:
    """Turn an error of the operating system (disk full, no permission) into a DataError that names the path.

    Raises:
        DataError: The block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror or error}): free some space, or choose another folder with the "
            "environment variable AGENT_GYM_CACHE."
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
