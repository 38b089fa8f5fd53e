"""The folder in which fetched data is kept. Knows nothing of what the data is or where it comes from."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent_gym.errors import DataError
from agent_gym.files import replacing


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
def keeping_whole(path: Path) -> Iterator[Path]:
    """Give a path to write to, which takes the place of `path` at the end; after an error the old file stays.

    Raises:
        DataError: It cannot be written.
    """
    with keeping(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two processes may make the same file: each writes its own, and the later one stays.
        with replacing(path, suffix=f".{os.getpid()}.new") as partial:
            yield partial


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
