"""ALFWorld as a TextEnv: household tasks in text, on generated games or on the official ones.

Knows which games there are and how an episode is scored; the simulator plays them.
"""

import copy
import random
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, Protocol, Self

from agent_gym.env import LazyTasks, State, Task, TextEnv
from agent_gym.envs.alfworld.data import official_games
from agent_gym.envs.alfworld.engine import Simulator
from agent_gym.envs.alfworld.expert import explore
from agent_gym.envs.alfworld.export import to_pddl
from agent_gym.envs.alfworld.loading import GameLibrary, GameReader, GameText, load_games
from agent_gym.envs.alfworld.reference import ReferenceSimulator, open_reference, reference_installed
from agent_gym.envs.alfworld.scene import TASK_TYPES, Game
from agent_gym.envs.host import Host
from agent_gym.errors import EpisodeEnded, MissingExtraError, UnknownIdError

ALL = "all"
"""The split that holds the games of all splits of a file."""
_GENERATED_SPLITS = ("train", "valid_seen", "valid_unseen")
_LONGEST_ACTION = 65_536
_RECYCLE = 50
"""Games after which a worker of the official engine makes room for a fresh one: the engine keeps some of each."""

EngineName = Literal["simulator", "textworld"]


class GameSource(Protocol):
    """Games that have ids and are made or parsed when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Game: ...

    def task_id(self, index: int) -> str:
        """Return the id of the game at `index`."""

    def index_of(self, id_: str) -> int:
        """Return the index of the game with that id, or raise UnknownIdError."""


class AlfworldEnv(TextEnv):
    """Household tasks in text: find a thing, perhaps clean, heat or cool it, and bring it somewhere.

    The reward is 1.0 at the turn that solves the task and 0.0 at every other.

    Args:
        games: The games to play (see `load_games`) or the path of a file or folder of them; "official" for those that
            `agent-gym data get alfworld` has fetched; generated games if None.
        split: "train", "valid_seen" or "valid_unseen"; with `games` also "valid_train" and "all", as far as there are
            games for it.
        task_types: The task types to draw from (see `TASK_TYPES`); all if None.
        size: Of generated games: "tiny", "small", "medium" or "official".
        max_turns: The episode is truncated after so many turns.
        put_alias: Understand "put X in/on Y" (the older releases) as well as "move X to Y" (2.1.3), both ways.
        engine: "simulator", or "textworld" for the official engine in a worker process, some thousand times slower.
        render_mode: "ansi" or None.

    Raises:
        UnknownIdError: No such split, task type, size or engine.
        GameError: The path in `games` holds no games that can be read.
        MissingExtraError: The official engine is not installed.
    """

    splits: ClassVar[tuple[str, ...]] = (*_GENERATED_SPLITS, "valid_train", ALL)
    task_noun: ClassVar[str] = "game"
    checks: ClassVar[dict[str, str]] = {"official engine": "agent_gym.envs.alfworld.checking:check_official_engine"}

    def __init__(
        self,
        games: Sequence[Game] | str | Path | None = None,
        *,
        split: str = "train",
        task_types: Sequence[str] | None = None,
        size: str = "small",
        max_turns: int = 50,
        put_alias: bool = False,
        engine: EngineName = "simulator",
        render_mode: str | None = None,
    ) -> None:
        super().__init__(max_turns=max_turns, split=split, render_mode=render_mode)
        for task_type in task_types or ():
            if task_type not in TASK_TYPES:
                raise UnknownIdError.of("task type", task_type, TASK_TYPES)
        types = tuple(task_types or TASK_TYPES)
        self._path = _path_of(games)
        self._sources = _generated(size, types) if games is None else _given(self._path or games, types)
        if split not in self._sources:
            raise UnknownIdError.of("split (with these games)", split, self._sources)
        if engine not in ("simulator", "textworld"):
            raise UnknownIdError.of("engine", engine, ("simulator", "textworld"))
        self._put_alias = put_alias
        self._official = engine == "textworld"
        if self._official and not reference_installed():
            raise MissingExtraError.of("alfworld-reference", "The official ALFWorld engine")
        self.blocking = self._official
        self._host: Host | None = None
        self._games_played = 0
        self._simulator: Simulator | ReferenceSimulator | None = None

    @property
    def game(self) -> Game:
        """The game of the current episode.

        Raises:
            EpisodeEnded: `reset` was never called.
        """
        return self._current().game

    def tasks(self, split: str) -> Sequence[Task]:
        """Return the tasks of a split; nothing is loaded or generated."""
        if split not in self._sources:
            return ()
        source = self._sources[split]
        return LazyTasks(len(source), lambda index: _task(source, index, split))

    def find_task(self, task_id: str) -> Task:
        """Return the task with that id, from whichever split has it.

        Raises:
            UnknownIdError: No split has it.
        """
        split, index = self._find(task_id)
        return _task(self._sources[split], index, split)

    def expert(self) -> Iterator[str] | None:
        """Return the commands that solve the current task from its start, or None before the first `reset`."""
        return iter(self.game.walkthrough) if self._simulator else None

    def demonstrate(self, observation: str, rng: random.Random) -> Generator[str, str, object]:
        """Return a player that explores the room as an agent must: it knows what it has been told, and no more."""
        return explore(self.game.objective, observation, rng)

    def written(self, task_id: str) -> GameText:
        """Return a game as it is written where it is stored; a generated one is written now.

        Raises:
            UnknownIdError: No split has it.
        """
        split, index = self._find(task_id)
        source = self._sources[split]
        read: object = source.stored[index].read if isinstance(source, GameLibrary) else None
        if isinstance(read, GameReader):
            return read.text()
        game = source[index]
        return GameText(game.objective, to_pddl(game), game.walkthrough, game.dialect)

    def content_of(self, task: Task) -> str:
        """Return the game as it is written where it is stored; a generated one is written now."""
        text = self.written(task.id)
        return "\n".join([text.task, " ".join(text.problem.split()), *text.walkthrough])

    def data_files(self) -> Mapping[str, Path]:
        """Return the file or folder of the games, or the figures that generated ones are drawn from."""
        return {"games": self._path} if self._path else {"tables.json": Path(__file__).with_name("tables.json")}

    def close(self) -> None:
        """End the worker of the official engine, if there is one."""
        if self._host is not None:
            self._host.close()
            self._host = None

    def _find(self, task_id: str) -> tuple[str, int]:
        """Return the split and the index in it of the task with that id; the env's own split comes first."""
        for split in (self.split, *self._sources):
            try:
                return split, self._sources[split].index_of(task_id)
            except UnknownIdError as error:
                # The last source is the broadest ("all" of a file), and so it has the best suggestion.
                unknown = error
        raise unknown

    def _start(self, task: Task, rng: random.Random) -> tuple[str, State]:
        split, index = self._find(task.id)
        game = self._sources[split][index]
        if self._official:
            text = self.written(task.id)
            self._simulator = ReferenceSimulator(self._worker(), game, text, put_alias=self._put_alias)
        else:
            self._simulator = Simulator(game, put_alias=self._put_alias)
        return self._simulator.start(), self._state(self._simulator)

    def _worker(self) -> Host:
        """Return the worker of the official engine, a fresh one where none lives or it has played for long."""
        if self._host is not None and (self._games_played >= _RECYCLE or not self._host.alive):
            self.close()
        if self._host is None:
            self._host, self._games_played = open_reference(), 0
        self._games_played += 1
        return self._host

    def _act(self, action: str) -> tuple[str, State]:
        simulator = self._current()
        observation = simulator.step(action if len(action) <= _LONGEST_ACTION else "")
        return observation, self._state(simulator)

    def _copy(self) -> Self:
        twin = copy.copy(self)
        twin._simulator = self._simulator.copy() if self._simulator else None
        twin._host = twin._simulator.host if isinstance(twin._simulator, ReferenceSimulator) else None
        return twin

    def _current(self) -> Simulator | ReferenceSimulator:
        if self._simulator is None:
            raise EpisodeEnded("There is no game yet: call reset() first.")
        return self._simulator

    def _state(self, simulator: Simulator | ReferenceSimulator) -> State:
        solved = simulator.won
        game = simulator.game
        return State(
            goal=game.objective,
            reward=float(solved),
            terminated=solved,
            success=solved,
            score=float(solved),
            invalid_action=simulator.invalid,
            admissible=simulator.snapshot(),
            extra={"task_type": game.task_type},
        )


def _task(source: GameSource, index: int, split: str) -> Task:
    if isinstance(source, GameLibrary):
        stored = source.stored[index]
        return Task(stored.id, stored.split, {"task_type": stored.task_type})
    return Task(source.task_id(index), split)


def _path_of(games: Sequence[Game] | str | Path | None) -> Path | None:
    """Return where the games lie, or None where they lie in memory."""
    if games == "official":
        return official_games()
    return Path(games) if isinstance(games, str | Path) else None


def _generated(size: str, task_types: tuple[str, ...]) -> dict[str, GameSource]:
    from agent_gym.envs.alfworld.games import GeneratedGames

    return {split: GeneratedGames(split, size, task_types) for split in _GENERATED_SPLITS}


def _given(games: Sequence[Game] | str | Path, task_types: tuple[str, ...]) -> dict[str, GameSource]:
    from agent_gym.envs.alfworld.games import GeneratedGames

    if isinstance(games, GeneratedGames):
        return {games.split: games}
    if isinstance(games, str | Path):
        games = load_games(games)
    library = games if isinstance(games, GameLibrary) else GameLibrary.of(games)
    playable = library.select(task_types=task_types)
    by_split = {split: playable.select(split=split) for split in AlfworldEnv.splits if split != ALL}
    return {split: source for split, source in {**by_split, ALL: playable}.items() if len(source)}
