"""Files that are replaced as a whole: a reader, or a process that was killed, leaves the old content or the new."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path, suffix: str = ".partial") -> Iterator[Path]:
    """Give a path to write to, which takes the place of `path` at the end; after an error the old file stays.

    Args:
        path: The file.
        suffix: Ends the name of what is written meanwhile, beside the file.

    Raises:
        OSError: It cannot be written.
    """
    partial = path.with_name(path.name + suffix)
    try:
        yield partial
        sync(partial)
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
