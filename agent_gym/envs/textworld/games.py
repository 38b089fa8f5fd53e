"""Where TextWorld games come from: files that are given, or a generator whose games are kept on disk.

A generated game is named by TextWorld's version, the challenge, its settings and the seed, so that it is made once.
"""

import hashlib
import json
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from agent_gym.env import LazyTasks, Task
from agent_gym.envs.host import Host
from agent_gym.errors import ConfigError, GameError, UnknownIdError
from agent_gym.task_ids import SEEDS_A_SPLIT, number_in, split_of_seed

BACKEND: Final = "agent_gym.envs.textworld.backend"
SPLITS: Final = ("train", "valid", "test")
_MAKING_SECONDS: Final = 300.0

CHALLENGES: Final[dict[str, dict[str, Any]]] = {
    "cooking": {
        "recipe": 1,
        "take": 1,
        "go": 1,
        "open": True,
        "cook": True,
        "cut": False,
        "drop": False,
        "recipe_seed": 0,
    },
    "coin-collector": {"level": 5},
    "treasure-hunter": {"level": 5},
    "simple": {"rewards": "dense", "goal": "detailed", "test": False},
    "custom": {"nb_rooms": 3, "nb_objects": 6, "quest_length": 3},
}
"""The challenges that can be generated, with their settings and the defaults of these."""


class GeneratedGames:
    """Games of a challenge, a seed each.

    Args:
        challenge: A name of `CHALLENGES`.
        settings: Over the defaults of the challenge.
        size: Games a split.
        cache: The folder that keeps the games (about 0.5 MB each).

    Raises:
        UnknownIdError: No such challenge or setting.
        ConfigError: The size is out of range.
    """

    def __init__(self, challenge: str, settings: Mapping[str, Any], size: int, cache: Path) -> None:
        if challenge not in CHALLENGES:
            raise UnknownIdError.of("challenge", challenge, CHALLENGES)
        defaults = CHALLENGES[challenge]
        for name in settings:
            if name not in defaults:
                raise UnknownIdError.of(f"setting of {challenge}", name, defaults)
        if not 1 <= size <= SEEDS_A_SPLIT:
            raise ConfigError(f"size must be from 1 to {SEEDS_A_SPLIT:,}, not {size}.")
        self._size = size
        self._challenge = challenge
        self._settings = {**defaults, **settings}
        self._cache = cache

    def tasks(self, split: str) -> Sequence[Task]:
        """Return a task a seed."""
        if split not in SPLITS:
            return ()
        start = SPLITS.index(split) * SEEDS_A_SPLIT
        return LazyTasks(self._size, lambda index: self._task(f"{self._challenge}/{start + index}", split))

    def find(self, task_id: str) -> Task:
        """Return the task of a seed.

        Raises:
            UnknownIdError: The id is not that of a game of this challenge.
        """
        split = split_of_seed(number_in(task_id, f"{self._challenge}/"), SPLITS, self._size)
        if split is not None:
            return self._task(task_id, split)
        starts = ", ".join(f"{split} from '{self._challenge}/{SEEDS_A_SPLIT * n}'" for n, split in enumerate(SPLITS))
        raise UnknownIdError(f"Unknown task {task_id!r}: there are {self._size:,} a split, {starts}.")

    def files(self) -> Mapping[str, Path]:
        """Return no files: what is generated follows from its settings."""
        return {}

    def _task(self, task_id: str, split: str) -> Task:
        return Task(task_id, split, {"task_type": self._challenge})

    def path(self, task: Task, makers: "Makers") -> Path:
        """Return the game file of a task, made now if it was never made (one to two seconds, the first some more)."""
        seed = int(task.id.rpartition("/")[2])
        settings = dict(self._settings)
        if self._challenge == "cooking":
            # Its food differs between splits, too.
            settings["split"] = task.split
        official = "custom" if self._challenge == "custom" else f"tw-{self._challenge.replace('-', '_')}"
        folder = self._cache / f"{self._challenge}-{_digest({'textworld': _version(), **settings})}"
        return _made(folder / f"{seed}.z8", lambda path: makers.run("generate", official, settings, seed, path))


class GivenGames:
    """Games in files.

    Args:
        paths: Game files, or folders that have some somewhere below them. A game that lies in a subfolder named after a
            split belongs to it, and to "train" otherwise.
        cache: Where a game is kept that has to be compiled first.

    Raises:
        GameError: There is no such file, or no game among them.
    """

    def __init__(self, paths: Sequence[str | Path], cache: Path) -> None:
        self._cache = cache
        self._files = dict(sorted(_named(paths).items()))
        self._splits = {split: [id_ for id_ in self._files if _split_of(id_) == split] for split in SPLITS}

    def tasks(self, split: str) -> Sequence[Task]:
        """Return a task a file; the id is the file's name."""
        ids = self._splits[split]
        return LazyTasks(len(ids), lambda index: Task(ids[index], split))

    def find(self, task_id: str) -> Task:
        """Return the task of a file.

        Raises:
            UnknownIdError: There is no such file among the games.
        """
        if task_id not in self._files:
            raise UnknownIdError.of("task", task_id, self._files)
        return Task(task_id, _split_of(task_id))

    def files(self) -> Mapping[str, Path]:
        """Return the game files by the ids of their tasks."""
        return self._files

    def path(self, task: Task, makers: "Makers") -> Path:
        """Return a file that the interpreter can play; a game without one is compiled from its description."""
        path = self._files[task.id]
        if path.suffix != ".json":
            return path
        key = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        target = self._cache / "compiled" / f"{key}.z8"
        return _made(target, lambda made: makers.run("compile", str(path), made))


def _named(paths: Sequence[str | Path]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for given in map(Path, paths):
        if not given.exists():
            raise GameError(f"There is no game file or folder {given}: check the path.")
        found = sorted(path for path in given.rglob("*") if path.is_file()) if given.is_dir() else [given]
        for playable in filter(None, map(_playable, found)):
            name = playable.relative_to(given) if given.is_dir() else Path(playable.name)
            id_ = name.with_suffix("").as_posix()
            if files.setdefault(id_, playable) != playable:
                raise GameError(f"{files[id_]} and {playable} have the same name: give the folder above both.")
    if not files:
        raise GameError(f"No .z1 to .z8, .ulx or .json game lies in {', '.join(map(str, paths))}: check the path.")
    return files


def _playable(path: Path) -> Path | None:
    """Return the file to play where `path` is one of a game's files, or None where it is something else.

    Raises:
        GameError: It is a Glulx game without the .json that it was made from.
    """
    compiled = path.with_suffix(".z8")
    description = path.with_suffix(".json")
    if path.suffix == ".json":
        return compiled if compiled.is_file() else path
    if path.suffix == ".ulx":
        if not description.is_file():
            raise GameError(
                f"{path} is a Glulx game, which TextWorld no longer plays: put its .json beside it to have it compiled."
            )
        return compiled if compiled.is_file() else description
    return path if path.suffix in {f".z{number}" for number in range(1, 9)} else None


def _split_of(id_: str) -> str:
    return next((part for part in id_.split("/")[:-1] if part in SPLITS), "train")


def _made(path: Path, make: Callable[[str], None]) -> Path:
    """Return `path`, having it made first if it is not there; half a game is never seen by anybody."""
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{path.stem}-", dir=path.parent))
    try:
        make(str(folder / path.name))
        # The game file comes last: where it is, everything is.
        for suffix in (".json", ".z8"):
            (folder / path.with_suffix(suffix).name).replace(path.with_suffix(suffix))
    except OSError as error:
        raise GameError(
            f"The game {path} cannot be kept ({error}): free some space or choose another cache."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return path


class Makers:
    """Processes that make games, at most one a processor; shared by all environments that hold on to them."""

    _known: ClassVar["weakref.WeakValueDictionary[int, Makers]"] = weakref.WeakValueDictionary()

    def __init__(self) -> None:
        self._slots = threading.BoundedSemaphore(os.cpu_count() or 1)
        self._idle: list[Host] = []

    @classmethod
    def shared(cls) -> "Makers":
        """Return the makers of this process; they end when nobody holds them any more."""
        return cls._known.setdefault(os.getpid(), cls())

    def run(self, method: str, *args: Any) -> None:
        """Have a process make a game. A game does not depend on what the process has made before.

        Raises:
            ConfigError: TextWorld refuses the settings.
            WorkerError: The process died or did not answer in time.
        """
        with self._slots:
            maker = self._idle.pop() if self._idle else Host(f"{BACKEND}:Maker", name="TextWorld's generator")
            try:
                maker.call(method, *args, timeout=_MAKING_SECONDS)
            except (ValueError, KeyError, AssertionError, TypeError) as error:
                raise ConfigError(f"TextWorld cannot make this game ({error}): change its settings.") from error
            finally:
                if maker.alive:
                    self._idle.append(maker)


def _version() -> str:
    from importlib.metadata import version

    return version("textworld")


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
