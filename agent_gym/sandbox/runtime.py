"""The interpreter and the libraries that code finds in a box: those of this process, and nothing else of its files.

A box is entered under a user that may not be allowed to read where they are (a home folder, say). They are copied once,
to a folder that everybody can read, when this process is root; otherwise they are used where they are.
"""

import compileall
import hashlib
import importlib.metadata
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent_gym.errors import SandboxUnavailable

HOME = Path("/opt/agent-gym")
"""Where all of it is inside a box."""
_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_CACHE = Path("/var/cache/agent_gym")


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a box is built from."""

    python: str
    """Path of the interpreter, inside."""
    binds: tuple[tuple[Path, Path], ...]
    """What is seen inside, read-only: the source on the host, and its path inside."""
    masks: tuple[Path, ...]
    """Folders inside that are hidden by an empty one."""

    def environment(self) -> dict[str, str]:
        """Return the variables without which the interpreter would not find its own library, or find another one's."""
        own = HOME / "python" / "lib"
        return {"LD_LIBRARY_PATH": str(own)} if Path(self.python).is_relative_to(HOME) else {}


def make_runtime(packages: Sequence[str], *, readable_by_all: bool) -> Runtime:
    """Return the runtime with this process's interpreter and some of its libraries.

    Args:
        packages: Names of installed distributions; what they require comes with them.
        readable_by_all: Copy what other users cannot read.

    Raises:
        SandboxUnavailable: A distribution is not installed, or the copy cannot be made.
    """
    binds = [(entry, HOME / "packages" / entry.name) for entry in _package_entries(packages)]
    python, masks, interpreter = _interpreter()
    binds += interpreter
    if readable_by_all:
        binds = [(_readable(source), target) for source, target in binds]
    return Runtime(python, tuple(binds), tuple(masks))


def _interpreter() -> tuple[str, list[Path], list[tuple[Path, Path]]]:
    """Return the interpreter's path inside, what must be hidden, and what must be bound."""
    prefix = Path(sys.base_prefix).resolve()
    executable = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    if Path("/usr") in (prefix, *prefix.parents):
        libraries = {Path(sysconfig.get_path(name, vars={"base": str(prefix)})) for name in ("purelib", "platlib")}
        local = set() if Path("/usr/local") in (prefix, *prefix.parents) else {Path("/usr/local")}
        return str(executable), _outermost(libraries | local), []
    home = HOME / "python"
    binds = [(executable, home / "bin" / _VERSION), (prefix / "lib" / _VERSION, home / "lib" / _VERSION)]
    binds += [(library, home / "lib" / library.name) for library in sorted((prefix / "lib").glob("libpython*.so*"))]
    return str(home / "bin" / _VERSION), [home / "lib" / _VERSION / "site-packages", Path("/usr/local")], binds


def _outermost(folders: Iterable[Path]) -> list[Path]:
    """Return the folders that exist, without those that lie within another one."""
    there = sorted({folder for folder in folders if folder.is_dir()})
    return [folder for folder in there if not any(other in folder.parents for other in there)]


def _package_entries(packages: Iterable[str]) -> Iterator[Path]:
    """Yield the files and folders at the top of the distributions, and of those that they require."""
    seen: set[str] = set()
    waiting, entries = list(packages), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as error:
            if name not in packages:
                continue  # an optional requirement
            raise SandboxUnavailable(
                f"The sandbox shall have {name}, which is not installed: pip install {name}."
            ) from error
        waiting += _required(distribution)
        entries |= {
            Path(str(distribution.locate_file(file.parts[0])))
            for file in distribution.files or ()
            if ".." not in file.parts
        }
    yield from sorted(entry for entry in entries if entry.exists() and entry.name not in ("bin", "__pycache__"))


def _required(distribution: importlib.metadata.Distribution) -> list[str]:
    names = []
    for requirement in distribution.requires or ():
        name, _, condition = requirement.partition(";")
        if "extra" not in condition:
            names.append("".join(letter if letter.isalnum() or letter in "-_." else " " for letter in name).split()[0])
    return names


def _readable(source: Path) -> Path:
    """Return the path if every user can read it, else that of a copy."""
    real = source.resolve()
    if all(parent.stat().st_mode & 0o001 for parent in real.parents) and real.stat().st_mode & 0o004:
        return real
    # Folders change whenever something is put beside; the standard library is the same for as long as its files are.
    stamp = (real / "os.py" if real.name == _VERSION and real.is_dir() else real).stat()
    digest = hashlib.sha256(f"{real} {stamp.st_mtime_ns} {stamp.st_ino}".encode()).hexdigest()[:16]
    copy = _CACHE / f"{real.name}-{digest}"
    if not copy.exists():
        _copy(real, copy)
    return copy


def _copy(source: Path, target: Path) -> None:
    """Copy a file or a folder so that everybody can read it; it is there as a whole or not at all."""
    try:
        _CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=_CACHE, prefix="new-"))
        try:
            staging.chmod(0o755)
            made = staging / target.name
            if source.is_dir():
                ignore = shutil.ignore_patterns("site-packages", "test", "tests", "idlelib", "turtledemo", "ensurepip")
                shutil.copytree(source, made, ignore=ignore, symlinks=False, ignore_dangling_symlinks=True)
                if source.name == _VERSION:
                    (made / "site-packages").mkdir()
                # Nobody can write there later, and compiling takes longer than most code runs.
                compileall.compile_dir(made, quiet=2)
            else:
                shutil.copy2(source, made)
            _open_to_all(made)
            os.rename(made, target)  # noqa: PTH104 - says what it does
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except FileExistsError:
        return
    except OSError as error:
        if not target.exists():
            raise SandboxUnavailable(
                f"The interpreter in {source} cannot be read by every user, nor copied to {_CACHE} ({error}): use a "
                "Python that everybody can read."
            ) from error


def _open_to_all(path: Path) -> None:
    """Let everybody read a tree that we have just made."""
    for each in (path, *path.rglob("*")):
        mode = each.stat().st_mode
        each.chmod(mode | 0o444 | (0o111 if each.is_dir() or mode & 0o100 else 0))
