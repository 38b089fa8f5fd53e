"""Opens ALFWorld games: the compact file of all games, an archive or a folder of game.tw-pddl files, or one such file.

Knows where games are stored and reads one only when it is asked for.
"""

import json
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Final, Protocol, overload, runtime_checkable

from agent_gym.envs.alfworld.pddl import parse_problem
from agent_gym.envs.alfworld.scene import TASK_TYPES, Game
from agent_gym.errors import GameError, UnknownIdError

SPLITS: Final = ("train", "valid_seen", "valid_unseen", "valid_train")
_GAME_FILE: Final = "game.tw-pddl"
_DOWNLOAD: Final = "download the games again with `agent-gym data get alfworld --force` or `alfworld-download`"
_LEFT_OUT: Final = ("movable", "Sliced")
"""Words in the folder names of games that the official environment leaves out."""
BROKEN_ARCHIVE: Final = (OSError, EOFError, KeyError, RuntimeError, zlib.error, zipfile.BadZipFile)
"""What zipfile raises where an archive is damaged, encrypted or packed in an unknown way."""
_OBJECTIVE: Final = re.compile(r'"rhs":\s*"Your task is to: (.*?)\.?"')
_PLACING_VERB: Final = re.compile(r'action\s+PutObject\s*\{\s*template\s*::\s*"(\w+) ')
_CACHED_GAMES: Final = 64


@dataclass(frozen=True, slots=True)
class GameText:
    """What is written about a game where it is stored; nothing of it has been parsed."""

    task: str
    problem: str
    walkthrough: tuple[str, ...]
    dialect: str = "move"
    solvable: bool = True
    """False where the file says so, and where a game.tw-pddl file does not say it."""


@runtime_checkable
class GameReader(Protocol):
    """Reads one stored game."""

    @property
    def id(self) -> str:
        """The game's id."""

    def text(self) -> GameText:
        """Return what is written, or raise GameError."""

    def __call__(self) -> Game:
        """Return the game, or raise GameError."""


@dataclass(frozen=True, slots=True)
class StoredGame:
    """A game that need not have been parsed yet."""

    id: str
    split: str
    task_type: str
    """The task type that the id names; empty if it names none, and then the game itself tells."""
    read: Callable[[], Game]


class GameLibrary(Sequence[Game]):
    """Games in the order of their ids; each is parsed when it is asked for, and the latest few are kept.

    Args:
        stored: The games.
    """

    def __init__(self, stored: Iterable[StoredGame]) -> None:
        self.stored = tuple(sorted(stored, key=lambda game: game.id))
        self._indices = {game.id: index for index, game in enumerate(self.stored)}
        self._parsed: dict[int, Game] = {}

    @classmethod
    def of(cls, games: Iterable[Game]) -> "GameLibrary":
        """Make a library of games that are in memory."""
        return cls(StoredGame(game.id, game.split, game.task_type, partial(_same, game)) for game in games)

    def select(self, *, split: str | None = None, task_types: Sequence[str] = TASK_TYPES) -> "GameLibrary":
        """Return the games of a split (of all splits by default) and of some task types."""
        of_split = (game for game in self.stored if split in (None, game.split))
        return GameLibrary(game for game in map(_with_task_type, of_split) if game.task_type in task_types)

    def task_id(self, index: int) -> str:
        """Return the id of the game at `index`, without parsing it."""
        return self.stored[index].id

    def index_of(self, id_: str) -> int:
        """Return the index of the game with that id, without parsing it.

        Raises:
            UnknownIdError: The library has no such game; the message names the nearest id.
        """
        if id_ not in self._indices:
            raise UnknownIdError.of("task", id_, self._indices)
        return self._indices[id_]

    def __len__(self) -> int:
        return len(self.stored)

    @overload
    def __getitem__(self, index: int) -> Game: ...

    @overload
    def __getitem__(self, index: slice) -> "GameLibrary": ...

    def __getitem__(self, index: int | slice) -> "Game | GameLibrary":
        if isinstance(index, slice):
            return GameLibrary(self.stored[index])
        index = range(len(self.stored))[index]
        if index not in self._parsed:
            if len(self._parsed) >= _CACHED_GAMES:
                del self._parsed[next(iter(self._parsed))]
            self._parsed[index] = self.stored[index].read()
        return self._parsed[index]


def load_games(path: str | Path, *, official_only: bool = False) -> GameLibrary:
    """Open the games at `path` without parsing them.

    Args:
        path: A compact file (.json or .json.xz: `{id: {"task", "problem", "walkthrough"}}`), a game.tw-pddl file, or
            a folder or archive (.zip) that has such files somewhere in it.
        official_only: Leave out what the official environment leaves out (see `official_text`); reads every game.

    Raises:
        GameError: There is nothing at `path`, or it holds no games.
    """
    readers = game_readers(path)
    if official_only:
        readers = [reader for reader in readers if official_text(reader)]
    return GameLibrary(_stored(reader) for reader in readers)


def game_readers(path: str | Path) -> list[GameReader]:
    """Return a reader for each game at `path`; see `load_games`.

    Raises:
        GameError: There is nothing at `path`, or it holds no games.
    """
    path = Path(path)
    readers: Sequence[GameReader]
    if path.is_dir():
        readers = _in_folder(path)
    elif not path.is_file():
        raise GameError(f"There is no game file or folder {path}: check the path, or {_DOWNLOAD}.")
    elif path.name.endswith((".json", ".json.xz")):
        readers = _in_compact_file(path)
    elif path.suffix == ".zip":
        readers = _in_archive(path)
    else:
        readers = [_File(path, _id_of(path.resolve().parent, path.parent.relative_to(path.parent.parent)))]
    if not readers:
        raise GameError(f"No {_GAME_FILE} lies in {path} or below it: check the path, or {_DOWNLOAD}.")
    return list(readers)


def official_text(reader: GameReader) -> GameText | None:
    """Return what is written about a game if the official environment would play it, else None.

    It leaves out games with "movable" or "Sliced" in their folders' names, of unknown task types, and those that are
    not marked as solvable. Entries of a compact file that say nothing about it count as solvable.

    Raises:
        GameError: The game cannot be read.
    """
    named = _task_type_in(reader.id)
    if any(word in reader.id for word in _LEFT_OUT) or (named and named not in TASK_TYPES):
        return None
    text = reader.text()
    known = bool(named) or reader().task_type in TASK_TYPES
    return text if text.solvable and known else None


def _stored(reader: GameReader) -> StoredGame:
    return StoredGame(reader.id, split_of(reader.id), _task_type_in(reader.id), reader)


def _task_type_in(id_: str) -> str:
    """Return the task type that an id names, such as "train/pick_and_place_simple-Mug-None-Shelf-1/trial_T1"."""
    words = (part.partition("-")[0] for part in id_.split("/"))
    return next((word for word in words if word.startswith(("pick_", "look_at_"))), "")


def _with_task_type(game: StoredGame) -> StoredGame:
    return game if game.task_type else replace(game, task_type=game.read().task_type)


def split_of(id_: str) -> str:
    """Return the split that an id names first, or "train"."""
    first = id_.partition("/")[0]
    return first if first in SPLITS else "train"


def _same(game: Game) -> Game:
    return game


# -- the compact file --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Packed:
    """An entry of the compact file; the problem is compressed because thousands of them are kept in memory."""

    source: str
    id: str
    entry: dict[str, Any]

    def text(self) -> GameText:
        missing = [key for key in ("task", "problem", "walkthrough") if key not in self.entry]
        if missing:
            raise GameError(f"Game {self.id!r} of {self.source} has no {missing[0]!r}: {_DOWNLOAD}.")
        return GameText(
            task=self.entry["task"],
            problem=zlib.decompress(self.entry["problem"]).decode(),
            walkthrough=tuple(self.entry["walkthrough"]),
            dialect=self.entry.get("dialect", "move"),
            solvable=bool(self.entry.get("solvable", True)),
        )

    def __call__(self) -> Game:
        return _parse(f"Game {self.id!r} of {self.source}", self.id, self.text())


def _in_compact_file(path: Path) -> list[_Packed]:
    try:
        if path.suffix == ".xz":
            with lzma.open(path, "rt", encoding="utf-8") as file:
                text = file.read()
        else:
            text = path.read_text(encoding="utf-8")
        entries = json.loads(text, object_hook=_pack)
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise GameError(f"{path} is not a readable JSON file of games ({error}): {_DOWNLOAD}.") from error
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise GameError(f"{path} does not map game ids to games: expected {{id: {{task, problem, walkthrough}}}}.")
    return [_Packed(str(path), id_, entry) for id_, entry in entries.items()]


def _pack(entry: dict[str, Any]) -> dict[str, Any]:
    """Compress the problem as soon as the JSON parser has read it, so that all of them are never in memory at once."""
    if isinstance(entry.get("problem"), str):
        entry["problem"] = zlib.compress(entry["problem"].encode(), level=1)
    return entry


# -- game.tw-pddl files ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _File:
    """A game.tw-pddl file on the disk."""

    path: Path
    id: str

    def text(self) -> GameText:
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise GameError(f"{self.path} cannot be read ({error}): {_DOWNLOAD}.") from error
        return _text_in(content, str(self.path))

    def __call__(self) -> Game:
        return _parse(str(self.path), self.id, self.text())


@dataclass(frozen=True, slots=True)
class _Member:
    """A game.tw-pddl file in an archive."""

    archive: Path
    name: str
    id: str

    def text(self) -> GameText:
        try:
            content = _archive(self.archive).read(self.name)
        except BROKEN_ARCHIVE as error:
            raise GameError(f"{self.name} in {self.archive} cannot be read ({error}): {_DOWNLOAD}.") from error
        return _text_in(content, f"{self.name} in {self.archive}")

    def __call__(self) -> Game:
        return _parse(f"{self.name} in {self.archive}", self.id, self.text())


def _archive(path: Path) -> zipfile.ZipFile:
    """Open an archive, or take the one that is open.

    A process that was forked opens its own: in a shared one it would read from wherever the other has just moved to.
    """
    return _opened_archive(path, path.stat().st_mtime_ns, os.getpid())


@lru_cache(maxsize=2)
def _opened_archive(path: Path, changed: int, process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _in_folder(folder: Path) -> list[_File]:
    ids = {_id_of(path.resolve().parent, path.parent.relative_to(folder)): path for path in folder.rglob(_GAME_FILE)}
    return [_File(path, id_) for id_, path in ids.items()]


def _in_archive(path: Path) -> list[_Member]:
    try:
        names = [name for name in _archive(path).namelist() if PurePosixPath(name).name == _GAME_FILE]
    except BROKEN_ARCHIVE as error:
        raise GameError(f"{path} is not a readable archive ({error}): {_DOWNLOAD}.") from error
    ids = {_id_of(PurePosixPath(name).parent, PurePosixPath(name).parent): name for name in names}
    return [_Member(path, name, id_) for id_, name in ids.items()]


def _id_of(folder: PurePath, otherwise: PurePath) -> str:
    """Return "split/task/trial" where a game's folder and those above it are named so, else another name for it."""
    parts = folder.parts[-3:]
    return "/".join(parts) if parts and parts[0] in SPLITS else otherwise.as_posix()


def _text_in(content: bytes, source: str) -> GameText:
    try:
        read = json.loads(content)
    except ValueError as error:
        raise GameError(f"{source} is not a readable JSON file ({error}): {_DOWNLOAD}.") from error
    for key in ("grammar", "pddl_problem", "walkthrough"):
        if not isinstance(read, dict) or key not in read:
            raise GameError(f"{source} has no {key!r}, so it is not an ALFWorld game: {_DOWNLOAD}.")
    objective, verb = _OBJECTIVE.search(read["grammar"]), _PLACING_VERB.search(read["grammar"])
    if objective is None or verb is None or verb[1] not in ("move", "put"):
        raise GameError(f"The grammar in {source} names no task or no verb for placing things: {_DOWNLOAD}.")
    solvable = bool(read.get("solvable", False))
    return GameText(objective[1], read["pddl_problem"], tuple(read["walkthrough"]), verb[1], solvable)


def _parse(source: str, id_: str, text: GameText) -> Game:
    try:
        return parse_problem(
            text.problem,
            game_id=id_,
            split=split_of(id_),
            objective=text.task,
            walkthrough=text.walkthrough,
            dialect=text.dialect,
        )
    except ValueError as error:
        raise GameError(f"{source} {error}: leave it out, or {_DOWNLOAD}.") from error
