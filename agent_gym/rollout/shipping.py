"""Code of the user's own on its way to other machines: an environment in a file, and what the file imports beside it.

Installed packages are not sent: they are on every machine, or are not. Nor are data.
"""

import ast
import functools
import hashlib
import importlib.util
import re
import site
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_gym.errors import ConfigError
from agent_gym.registry import find_spec, importable, resolve

_FILE = re.compile(r"(.+\.py):\w+")
_LIMIT = 10_000_000
"""Bytes; more is not a program but something else in its folder."""


@dataclass(frozen=True, slots=True)
class Shipment:
    """Files by their place on the machine that sends them."""

    files: tuple[tuple[str, str], ...] = ()
    """Absolute path and text of each."""

    def unpack(self, folder: str | None) -> Callable[[Any], Any]:
        """Write the files where they are not there already; return what puts the new places into a configuration.

        A file that is there with the same text, because the machines share their disks or are one, is used as it is:
        data beside it are found.

        Args:
            folder: Where to write; None for a temporary folder.
        """
        if not self.files or all(_has(Path(path), text) for path, text in self.files):
            sys.path.extend({str(Path(path).parent) for path, _ in self.files} - set(sys.path))
            return lambda values: values
        digest = hashlib.sha256(repr(self.files).encode()).hexdigest()[:16]
        root = Path(folder or tempfile.mkdtemp(prefix="agent-gym-code-")) / f"agent-gym-{digest}"
        for path, text in self.files:
            copy = root / path.lstrip("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            if not _has(copy, text):
                copy.write_text(text, encoding="utf-8")
        sys.path.extend({str(root / str(Path(path).parent).lstrip("/")) for path, _ in self.files} - set(sys.path))
        return functools.partial(_moved, root, {path for path, _ in self.files})


def shipment_of(id: str, options: Any) -> tuple[str, Any, Shipment]:
    """Return an environment's id and options as another machine understands them, and the code that it needs there.

    Args:
        id: See `agent_gym.make`.
        options: Its arguments; files of code among them ("file.py:Name") are sent, too.

    Raises:
        ConfigError: Only this process has the environment, or its code is too large to be sent.
    """
    resolve(find_spec(id).entry_point)
    entry, arguments = importable(id, who="other machine", otherwise="--workers local")
    entry, options = _absolute((entry, {**arguments, **options}))
    files: dict[str, str] = {}
    for named in _strings((entry, options)):
        match = _FILE.fullmatch(named)
        if match is not None and Path(match[1]).is_file():
            _collect(Path(match[1]), Path(match[1]).parent, files)
    if not entry.endswith(".py") and not _FILE.fullmatch(entry):
        _collect_module(entry.partition(":")[0].partition(".")[0], files)
    size = sum(map(len, files.values()))
    if size > _LIMIT:
        raise ConfigError(
            f"The code of {id} is {size / 1e6:.0f} MB in {len(files)} files, which are not sent to other machines: "
            "install it there as a package."
        )
    return entry, options, Shipment(tuple(sorted(files.items())))


def _has(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except (OSError, UnicodeError):
        return False


def _collect_module(name: str, files: dict[str, str]) -> None:
    """Add the code of a module or package that is not installed."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None or name == __name__.partition(".")[0]:
        return
    path = Path(spec.origin)
    installed = [*map(Path, (*site.getsitepackages(), *map(sysconfig.get_path, ("stdlib", "purelib", "platlib"))))]
    if any(path.is_relative_to(place) for place in installed) or path.suffix != ".py":
        return
    folder = path.parent.parent if path.name == "__init__.py" else path.parent
    _collect(path, folder, files)


def _collect(path: Path, folder: Path, files: dict[str, str]) -> None:
    """Add a file and what it imports from its folder; of a package, all of it."""
    path = path.resolve()
    if str(path) in files:
        return
    files[str(path)] = text = path.read_text(encoding="utf-8")
    if path.name == "__init__.py":
        for other in sorted(path.parent.rglob("*.py")):
            _collect(other, folder, files)
    for name in _imports(text):
        for other in (folder / f"{name}.py", folder / name / "__init__.py"):
            if other.is_file():
                _collect(other, folder, files)


def _imports(text: str) -> Iterator[str]:
    """Yield the first parts of the names that a program imports."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _strings(each)


def _mapped(change: Callable[[str], str], value: Any) -> Any:
    """Return a value with all texts in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(change, each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_mapped(change, each) for each in value])
    return value


def _absolute(value: Any) -> Any:
    """Return a configuration whose files of code have their full paths."""

    def absolute(text: str) -> str:
        match = _FILE.fullmatch(text)
        if match is None or not Path(match[1]).is_file():
            return text
        return f"{Path(match[1]).resolve()}:{text.rpartition(':')[2]}"

    return _mapped(absolute, value)


def _moved(root: Path, sent: set[str], value: Any) -> Any:
    """Return a configuration in which the files that were sent have their new places."""

    def moved(text: str) -> str:
        path, _, name = text.rpartition(":")
        return f"{root / path.lstrip('/')}:{name}" if path in sent else text

    return _mapped(moved, value)
