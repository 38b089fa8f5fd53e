"""Who writes to a run folder: a lock that the system lets go of when its process ends, however it ends."""

import fcntl
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent_gym.errors import StoreError

_FLOCK = "hhqqi"
"""Linux's struct flock: type, whence, start, length, process."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a run folder.

    The lock belongs to this process alone: what it forks does not hold it.

    Raises:
        StoreError: Another process holds it.
    """
    try:
        file = _lock_path(folder).open("a")
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}; choose another folder.") from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise StoreError(
                f"Process {holder(folder) or '?'} is writing to the run {folder}: wait until it has ended, or stop it."
            ) from None
        except OSError:
            # A file system without locks: nobody can be kept out.
            pass
        yield


def holder(folder: Path) -> int | None:
    """Return the process that writes to a run folder, or None where none does or nobody can tell.

    One's own process is not told of.
    """
    if sys.platform != "linux":
        return None
    try:
        descriptor = os.open(_lock_path(folder), os.O_RDONLY)
    except OSError:
        return None
    try:
        # Asked about a lock for reading; the answer is the lock that stands in its way.
        asked = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, process = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None if kind == fcntl.F_UNLCK else int(process)


def _lock_path(folder: Path) -> Path:
    return folder / ".lock"
