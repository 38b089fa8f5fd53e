"""Opens ALFWorld games: the compact file of all games, a folder of game.tw-pddl files, or one such file.

Knows where games are stored and reads one only when it is asked for.
"""

import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, overload

from agent_gym.envs.alfworld.pddl import parse_problem
from agent_gym.envs.alfworld.scene import TASK_TYPES, Game
from agent_gym.errors import GameError, UnknownIdError

SPLITS: Final = ("train", "valid_seen", "valid_unseen", "valid_train")
_GAME_FILE: Final = "game.tw-pddl"
_DOWNLOAD: Final = "download the games again with `alfworld-download`"
_OBJECTIVE: Final = re.compile(r'"rhs":\s*"Your task is to: (.*?)\.?"')
_PLACING_VERB: Final = re.compile(r'action\s+PutObject\s*\{\s*template\s*::\s*"(\w+) ')
_CACHED_GAMES: Final = 64


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


def load_games(path: str | Path) -> GameLibrary:
    """Open the games at `path` without parsing them.

    Args:
        path: A compact file (.json or .json.xz: `{id: {"task", "problem", "walkthrough"}}`), a game.tw-pddl file, or
            a folder that has such files somewhere below it.

    Raises:
        GameError: There is nothing at `path`, or it holds no games.
    """
    path = Path(path)
    if path.is_dir():
        stored = _in_folder(path)
    elif not path.is_file():
        raise GameError(f"There is no game file or folder {path}: check the path, or {_DOWNLOAD}.")
    elif path.name.endswith((".json", ".json.xz")):
        stored = _in_compact_file(path)
    else:
        id_ = _id_of(path, path.parent.parent)
        stored = [_stored(id_, _Reader(path, id_))]
    if not stored:
        raise GameError(f"No {_GAME_FILE} lies in {path} or below it: check the path, or {_DOWNLOAD}.")
    return GameLibrary(stored)


def _stored(id_: str, read: Callable[[], Game]) -> StoredGame:
    """Describe a game by its id, such as "train/pick_and_place_simple-Mug-None-Shelf-1/trial_T1"."""
    words = (part.partition("-")[0] for part in id_.split("/"))
    task_type = next((word for word in words if word.startswith(("pick_", "look_at_"))), "")
    return StoredGame(id_, _split_of(id_), task_type, read)


def _with_task_type(game: StoredGame) -> StoredGame:
    return game if game.task_type else replace(game, task_type=game.read().task_type)


def _split_of(id_: str) -> str:
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

    def __call__(self) -> Game:
        missing = [key for key in ("task", "problem", "walkthrough") if key not in self.entry]
        if missing:
            raise GameError(f"Game {self.id!r} of {self.source} has no {missing[0]!r}: {_DOWNLOAD}.")
        problem = zlib.decompress(self.entry["problem"]).decode()
        return _parse(
            f"Game {self.id!r} of {self.source}",
            self.id,
            problem,
            self.entry["task"],
            self.entry["walkthrough"],
            self.entry.get("dialect", "move"),
        )


def _in_compact_file(path: Path) -> list[StoredGame]:
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
    return [_stored(id_, _Packed(str(path), id_, entry)) for id_, entry in entries.items()]


def _pack(entry: dict[str, Any]) -> dict[str, Any]:
    """Compress the problem as soon as the JSON parser has read it, so that all of them are never in memory at once."""
    if isinstance(entry.get("problem"), str):
        entry["problem"] = zlib.compress(entry["problem"].encode(), level=1)
    return entry


# -- game.tw-pddl files ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reader:
    path: Path
    id: str

    def __call__(self) -> Game:
        content = self._content()
        grammar = content["grammar"]
        objective, verb = _OBJECTIVE.search(grammar), _PLACING_VERB.search(grammar)
        if objective is None or verb is None or verb[1] not in ("move", "put"):
            raise GameError(f"The grammar in {self.path} names no task or no verb for placing things: {_DOWNLOAD}.")
        id_ = self.id
        return _parse(str(self.path), id_, content["pddl_problem"], objective[1], content["walkthrough"], verb[1])

    def _content(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise GameError(f"{self.path} is not a readable JSON file ({error}): {_DOWNLOAD}.") from error
        for key in ("grammar", "pddl_problem", "walkthrough"):
            if not isinstance(content, dict) or key not in content:
                raise GameError(f"{self.path} has no {key!r}, so it is not an ALFWorld game: {_DOWNLOAD}.")
        return content


def _in_folder(folder: Path) -> list[StoredGame]:
    ids = {_id_of(path, folder): path for path in folder.rglob(_GAME_FILE)}
    return [_stored(id_, _Reader(path, id_)) for id_, path in ids.items()]


def _id_of(path: Path, folder: Path) -> str:
    """Return "split/task/trial" where the folders above the file are named so, else its place below `folder`."""
    parts = path.resolve().parent.parts[-3:]
    return "/".join(parts) if parts[0] in SPLITS else path.parent.relative_to(folder).as_posix()


def _parse(source: str, id_: str, problem: str, task: str, walkthrough: Sequence[str], dialect: str) -> Game:
    try:
        return parse_problem(
            problem,
            game_id=id_,
            split=_split_of(id_),
            objective=task,
            walkthrough=tuple(walkthrough),
            dialect=dialect,
        )
    except ValueError as error:
        raise GameError(f"{source} {error}: leave it out, or {_DOWNLOAD}.") from error
