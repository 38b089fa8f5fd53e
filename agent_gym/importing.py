"""What "module:name" and "file.py:name" name, imported."""

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from typing import Any

from agent_gym.errors import AgentGymError, ConfigError, UnknownIdError

_FILES: dict[Path, tuple[tuple[int, int], Any]] = {}
"""Modules of files that were named by their path, with the time and the size of the file that was run."""


def load_object(where: str, what: str, kind: str) -> Any:
    """Import what "module:name" or "file.py:name" names.

    Args:
        where: Its place.
        what: What it is for, for the message ("environment").
        kind: What the name is, for the message ("Class").

    Raises:
        UnknownIdError: It cannot be imported.
        ConfigError: What it is imported from fails.
    """
    module_name, _, name = where.rpartition(":")
    if not module_name or module_name.startswith("."):
        raise UnknownIdError(f"The {what} {where!r} does not say where it is: give module:{kind} or file.py:{kind}.")
    try:
        module = _load_file(Path(module_name)) if module_name.endswith(".py") else _import_local(module_name)
        return getattr(module, name)
    except (ImportError, AttributeError, FileNotFoundError) as error:
        raise UnknownIdError(
            f"The {what} {where!r} cannot be imported: {error}; give module:{kind} or file.py:{kind}."
        ) from error
    except AgentGymError:
        raise
    except Exception as error:
        raise ConfigError(f"The {what} {where!r} cannot be imported: {_raised(error)}; mend that module.") from error


def _raised(error: Exception) -> str:
    """Return what went wrong while a module was imported, and in which line."""
    told = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return told
    frame = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith("<")][-1]
    return f"{told} ({Path(frame.filename).name}, line {frame.lineno})"


def _import_local(module_name: str) -> Any:
    """Import a module, looking in the working directory too, as `python -m` does."""
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        return importlib.import_module(module_name)
    finally:
        if added:
            sys.path.remove(here)


def _load_file(path: Path) -> Any:
    """Return the module in a file; it is run once, and again only when it has changed."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    place, state = path.resolve(), path.stat()
    known = _FILES.get(place)
    if known is not None and known[0] == (state.st_mtime_ns, state.st_size):
        return known[1]
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if sys.modules.get(path.stem) is module:
            del sys.modules[path.stem]
        raise
    _FILES[place] = (state.st_mtime_ns, state.st_size), module
    return module
