"""Control groups: the only limit on memory that holds for all processes of a box together.

Both kinds are spoken: version 1, where each controller has a tree of its own, and version 2 with one tree. Groups carry
their owner's process id and start time in their name, so that what a killed owner left behind can be swept away.
"""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent_gym.sandbox.base import Limits

logger = logging.getLogger(__name__)

_PREFIX = "agent_gym-"
_CONTROLLERS = ("memory", "pids", "cpu")
_PERIOD_US = 100_000
_REMOVE_SECONDS = 5.0
_NAMESPACE = Path("/proc/self/ns/pid")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where this process may make groups: a folder by controller (version 1), or one folder for all (version 2)."""

    version: int
    folders: Mapping[str, Path]
    trees: tuple[Path, ...] = ()
    """The whole trees that they are in: another process of ours may have been in another group."""

    def problem(self) -> str:
        """Return why groups cannot be made here; nothing where they can."""
        missing = [controller for controller in _CONTROLLERS if controller not in self.folders]
        if missing:
            return f"no control group for {' and '.join(missing)} can be written"
        return ""

    def distinct(self) -> list[Path]:
        """Return the folders, each once."""
        return list(dict.fromkeys(self.folders.values()))


class Group:
    """A control group for one box.

    Args:
        hierarchy: Where to make it.
        name: Its name, unique in this process.
        limits: What its processes may use together.
    """

    def __init__(self, hierarchy: Hierarchy, name: str, limits: Limits) -> None:
        self._version = hierarchy.version
        folder = _PREFIX + owner_label() + "-" + name
        self._folders = {controller: path / folder for controller, path in hierarchy.folders.items()}
        try:
            for path in self._distinct():
                path.mkdir()
            for controller, settings in _settings(hierarchy.version, limits).items():
                for file, value in settings:
                    _set(self._folders[controller] / file, value)
        except OSError:
            self.remove()
            raise

    def add(self, pid: int) -> None:
        """Put a process in; its future children will be in, too."""
        for path in self._distinct():
            (path / "cgroup.procs").write_text(str(pid))

    def out_of_memory_kills(self) -> int:
        """Return how many processes were killed because memory had run out."""
        return memory_kills(self._folders["memory"])

    def peak_bytes(self) -> int | None:
        """Return the most memory that was in use at once, where the kernel says so."""
        file = "memory.peak" if self._version == 2 else "memory.max_usage_in_bytes"
        try:
            return int((self._folders["memory"] / file).read_text())
        except OSError:
            return None

    def remove(self) -> bool:
        """Remove the group, if nothing runs in it any more; return whether it is gone."""
        gone = True
        for path in self._distinct():
            try:
                path.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                gone = False
        return gone

    def _distinct(self) -> list[Path]:
        return list(dict.fromkeys(self._folders.values()))


def memory_kills(group: Path) -> int:
    """Return how many processes of a group of either version were killed because memory had run out."""
    for name in ("memory.events", "memory.oom_control"):
        with contextlib.suppress(OSError):
            for line in (group / name).read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
    return 0


def memory_group_of(pid: int, root: Path = Path("/sys/fs/cgroup")) -> Path | None:
    """Return the group that limits the memory of a process, if it can be seen from here."""
    try:
        memberships = _memberships(Path(f"/proc/{pid}/cgroup"))
    except OSError:
        return None
    if "memory" in memberships:
        return root / "memory" / memberships["memory"].lstrip("/")
    return root / memberships[""].lstrip("/") if "" in memberships else None


def find_hierarchy(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Hierarchy:
    """Find where this process may make groups: below its own group, or at the top where that is allowed."""
    memberships = _memberships(own)
    folders: dict[str, Path] = {}
    for controller in _CONTROLLERS:
        tree = root / controller
        if controller in memberships and (path := _writable(tree, memberships[controller])) is not None:
            folders[controller] = path
    if folders:
        return Hierarchy(1, folders, tuple(root / controller for controller in folders))
    if (root / "cgroup.controllers").is_file():
        path = _writable(root, memberships.get("", "/"))
        while path is not None and not _delegates(path):
            # A group that has processes in it cannot hand controllers down; the next one above may.
            path = _writable(root, "/" + str(path.parent.relative_to(root))) if path != root else None
        if path is not None:
            return Hierarchy(2, dict.fromkeys(_CONTROLLERS, path), (root,))
    return Hierarchy(2, {})


def owner_label(pid: int | None = None) -> str:
    """Return what names this process, or another one beside it, for as long as the machine runs."""
    pid = pid or os.getpid()
    started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{pid}.{started}.{_NAMESPACE.stat().st_ino:x}"


def sweep(hierarchy: Hierarchy) -> int:
    """Remove the groups of owners that live no more, and kill what runs in them; return how many there were."""
    swept = 0
    for group in ours(hierarchy):
        label = group.name.removeprefix(_PREFIX).partition("-")[0]
        if not lives(label):
            logger.info("Removing %s, which a process that has died left behind.", group)
            swept += _clear(group)
    return swept


def ours(hierarchy: Hierarchy) -> Iterator[Path]:
    """Yield the groups that any process has made for boxes; some may be gone the next moment."""
    for tree in hierarchy.trees:
        # Unlike a glob, this does not mind folders that vanish.
        for folder, names, _ in os.walk(tree):
            for name in [name for name in names if name.startswith(_PREFIX)]:
                names.remove(name)
                yield Path(folder, name)


def left_over(hierarchy: Hierarchy) -> list[Path]:
    """Return the groups of this process that exist."""
    return [group for path in hierarchy.distinct() for group in path.glob(f"{_PREFIX}{owner_label()}-*")]


def _settings(version: int, limits: Limits) -> dict[str, list[tuple[str, str]]]:
    memory, quota = str(limits.memory_bytes), str(int(limits.cpus * _PERIOD_US))
    if version == 2:
        return {
            "memory": [("memory.max", memory), ("memory.swap.max?", "0")],
            "pids": [("pids.max", str(limits.processes + 1))],
            "cpu": [("cpu.max", f"{quota} {_PERIOD_US}")],
        }
    return {
        "memory": [
            ("memory.limit_in_bytes", memory),
            ("memory.memsw.limit_in_bytes?", memory),
            ("memory.swappiness?", "0"),
        ],
        "pids": [("pids.max", str(limits.processes + 1))],
        "cpu": [("cpu.cfs_period_us", str(_PERIOD_US)), ("cpu.cfs_quota_us", quota)],
    }


def _set(file: Path, value: str) -> None:
    """Write a setting; one whose name ends with "?" does not exist on every kernel."""
    if file.name.endswith("?"):
        with contextlib.suppress(OSError):
            file.with_name(file.name[:-1]).write_text(value)
        return
    file.write_text(value)


def _memberships(own: Path) -> dict[str, str]:
    """Return the group that this process is in, by controller; version 2 under an empty name."""
    found = {}
    for line in own.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


def _writable(tree: Path, own: str) -> Path | None:
    """Return the nearest folder, from this process's own group upwards, in which groups can be made."""
    path = tree / own.lstrip("/")
    while True:
        if path.is_dir() and os.access(path, os.W_OK) and os.access(path / "cgroup.procs", os.W_OK):
            return path
        if path == tree or tree not in path.parents:
            return None
        path = path.parent


def _delegates(path: Path) -> bool:
    """Return whether a group of version 2 hands our controllers down, asking it to if need be."""
    wanted = set(_CONTROLLERS)
    control = path / "cgroup.subtree_control"
    with contextlib.suppress(OSError):
        if not wanted <= set(control.read_text().split()):
            control.write_text(" ".join(f"+{controller}" for controller in _CONTROLLERS))
        return wanted <= set(control.read_text().split())
    return False


def lives(label: str) -> bool:
    """Return whether the owner of a label lives, as far as can be told from here: another container's does."""
    pid, _, rest = label.partition(".")
    if rest.rpartition(".")[2] != f"{_NAMESPACE.stat().st_ino:x}":
        return True
    try:
        return owner_label(int(pid)) == label
    except (OSError, ValueError):
        return False


def _clear(group: Path) -> bool:
    deadline = time.monotonic() + _REMOVE_SECONDS
    while time.monotonic() < deadline:
        for pid in _members(group):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            group.rmdir()
            return True
        except FileNotFoundError:
            return True
        except OSError:
            time.sleep(0.01)
    return False


def _members(group: Path) -> Iterator[int]:
    with contextlib.suppress(OSError):
        yield from map(int, (group / "cgroup.procs").read_text().split())
