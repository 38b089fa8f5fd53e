"""Writing so that a reader, or a run that was killed, sees the old content or the new, never half of it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent_gym.errors import StoreError
from agent_gym.files import replacing, sync


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
    with writing(path), replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


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
                    sync(file)
            if path.exists():
                shutil.rmtree(path)
            partial.rename(path)
            sync(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
