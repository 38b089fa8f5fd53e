"""Writing so that a reader, or a run that was killed, sees the old content or the new, never half of it."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent_gym.errors import StoreError


@contextmanager
def writing(what: Path) -> Iterator[None]:
    """Turn an error of the operating system (disk full, no permission) into a StoreError that names the path."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{what} cannot be written: {error.strerror or error}; free some space or choose another folder, then "
            "go on with --resume."
        ) from error


def write_text(path: Path, text: str) -> None:
    """Replace a file's content atomically.

    Raises:
        StoreError: It cannot be written; the old content stays.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with writing(path):
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Replace a file's content by JSON, atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder under another name and rename it to `path` at the end; after an error nothing is left.

    Raises:
        StoreError: It cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with writing(path):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            yield partial
            for file in partial.rglob("*"):
                if file.is_file():
                    _sync(file)
            if path.exists():
                shutil.rmtree(path)
            partial.rename(path)
            _sync(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
