"""The runs that are shown: folders that may be written, may be half made, or may vanish while they are looked at."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from agent_gym.errors import StoreError, UnknownIdError
from agent_gym.secrecy import secrets_in
from agent_gym.store import schema
from agent_gym.store.holding import holder
from agent_gym.store.trajectories import TrajectoryStore
from agent_gym.viewer.cache import Cache
from agent_gym.viewer.metrics import MetricsLog
from agent_gym.viewer.tokens import Texts, find_texts

Value = TypeVar("Value")

LIVE_SECONDS = 60.0
"""A run that was written within this time counts as running."""


@dataclass(eq=False)
class Run:
    """One run folder. Every method looks at the folder as it is at that moment."""

    path: Path
    index: int
    metrics: MetricsLog = field(init=False)
    _texts: tuple[object, list[Texts]] | None = None
    _answers: Cache = field(default_factory=Cache)
    _idle: list[tuple[tuple[int, str], TrajectoryStore]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.metrics = MetricsLog(self.path / "metrics.jsonl")

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def database(self) -> Path:
        """The file of episodes, which may not be there."""
        return self.path / "trajectories.sqlite"

    def header(self) -> dict[str, Any]:
        """Return what config.yaml says: `created`, `versions`, `config`; secrets are blotted out.

        Raises:
            StoreError: There is none (any more), or it cannot be read.
        """
        try:
            header = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise StoreError(
                f"There is no run in {self.path} (any more): it has no config.yaml; check the path."
            ) from error
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise StoreError(f"{self.path}/config.yaml cannot be read: {error}; restore it.") from error
        if not isinstance(header, dict) or not isinstance(header.get("config"), dict):
            raise StoreError(f"{self.path}/config.yaml holds no configuration (yet); wait a moment, or restore it.")
        return {**header, "config": _without_secrets(header["config"])}

    @contextmanager
    def store(self) -> Iterator[TrajectoryStore | None]:
        """Give the episodes for reading; None where none has been stored yet.

        Raises:
            StoreError: The run is gone, or its database cannot be read.
        """
        try:
            found = self.database.stat()
        except OSError:
            found = None
        if found is None or found.st_size == 0:
            self.header()  # says so where the run is gone
            yield None
            return
        key = (found.st_ino, self.version() if self._is_old() else "")
        store = self._take(key) or TrajectoryStore.reading(self.database)
        try:
            yield store
        except BaseException:
            store.close()
            raise
        with self._lock:
            self._idle.append((key, store))

    def _is_old(self) -> bool:
        """Whether an earlier version wrote the file: then reading it makes a table in memory, which grows no more."""
        with self.database.open("rb") as file:
            return int.from_bytes(file.read(64)[60:64], "big") < schema.VERSION

    def _take(self, key: tuple[int, str]) -> TrajectoryStore | None:
        """Return a store that was opened before, for the file as it is now; opening one takes milliseconds."""
        with self._lock:
            kept = [(known, store) for known, store in self._idle if known == key]
            for known, store in self._idle:
                if known != key:
                    store.close()
            taken = kept.pop()[1] if kept else None
            self._idle = kept
        return taken

    def version(self) -> str:
        """Return a text that changes when metrics or episodes did; it takes three looks at the file system."""
        return "-".join(f"{size:x}.{at:x}" for size, at in self._written())

    def is_live(self) -> bool:
        """Whether a process writes to the folder, or something was written a short while ago."""
        return holder(self.path) is not None or time.time() - max(at for _, at in self._written()) / 1e9 < LIVE_SECONDS

    def texts(self) -> list[Texts]:
        """Return what may turn the run's token ids into text, the likeliest first."""
        steps = sorted(path.name for path in (self.path / "checkpoints").glob("step-*"))
        key = (steps[-1:], self.database.is_file())
        with self._lock:
            if self._texts is None or self._texts[0] != key:
                self._texts = (key, find_texts(self.path, self.header()["config"]))
            return self._texts[1]

    def cached(self, key: tuple[Any, ...], compute: Callable[[], Value], *, version: str | None = None) -> Value:
        """Return what `compute()` came to when something was written last, see `Cache`."""
        return self._answers.get(key, version or self.version(), compute)

    def _written(self) -> Iterator[tuple[int, int]]:
        """Yield size in bytes and time in nanoseconds of what a run appends to; zeros where it is not there."""
        for file in ("metrics.jsonl", "trajectories.sqlite", "trajectories.sqlite-wal"):
            try:
                found = (self.path / file).stat()
            except OSError:
                yield 0, 0
                continue
            # Readers make an empty log of changes; that is nothing new.
            yield (found.st_size, found.st_mtime_ns) if found.st_size else (0, 0)


class Runs:
    """All runs that are shown. A run keeps its index for as long as the viewer runs.

    Args:
        places: Run folders, or folders that hold run folders; a run that is made in the latter later on is shown, too.

    Raises:
        UnknownIdError: One of them does not exist, or holds no run.
    """

    def __init__(self, places: Sequence[Path]) -> None:
        self._places = list(places)
        self._runs: dict[Path, Run] = {}
        self._lock = threading.Lock()
        for place in self._places:
            if not place.is_dir():
                raise UnknownIdError(f"There is no folder {place}: give a run folder, or a folder that holds some.")
            if not _runs_in(place):
                raise UnknownIdError(f"There is no run in {place}: neither it nor a folder in it has a config.yaml.")
        self.refresh()

    def __iter__(self) -> Iterator[Run]:
        return iter(list(self._runs.values()))

    def refresh(self) -> None:
        """Look for new runs."""
        with self._lock:
            for path in (found for place in self._places for found in _runs_in(place)):
                self._runs.setdefault(path.resolve(), Run(path, len(self._runs)))

    def __getitem__(self, index: int) -> Run:
        runs = list(self._runs.values())
        if not 0 <= index < len(runs):
            raise UnknownIdError(f"There is no run {index}: the viewer shows runs 0 to {len(runs) - 1}.")
        return runs[index]


def _runs_in(place: Path) -> list[Path]:
    if (place / "config.yaml").is_file():
        return [place]
    try:
        return sorted(path for path in place.iterdir() if (path / "config.yaml").is_file())
    except OSError:
        return []


_HIDDEN = "(not shown)"


def _without_secrets(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _without_secrets(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, list):
        # What follows a flag in a command is known by the flag.
        flags = [None, *value]
        return [
            _HIDDEN if "[1]" in secrets_in([flag, inner], "") else _without_secrets(inner, key)
            for flag, inner in zip(flags, value, strict=False)
        ]
    return _HIDDEN if isinstance(value, str) and any(secrets_in({key: value}, "")) else value
