"""TextWorld as a TextEnv: each environment plays in a worker process of its own, and forks with it.

Source: Côté et al., "TextWorld: A Learning Environment for Text-based Games", 2018.
"""

import copy
import importlib.util
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from agent_gym.env import State, Task, TextEnv
from agent_gym.envs.data.cache import cache_folder
from agent_gym.envs.host import Host
from agent_gym.envs.textworld.games import BACKEND, SPLITS, GeneratedGames, GivenGames, Makers
from agent_gym.errors import EpisodeEnded, MissingExtraError, UnknownIdError
from agent_gym.task_ids import SEEDS_A_SPLIT

if TYPE_CHECKING:
    from agent_gym.envs.textworld.backend import Frame

Reward = Literal["score", "success"]

_LONGEST_ACTION = 180
"""The interpreter reads 198 bytes a line."""
_RECYCLE = 200
"""Episodes after which a worker makes room for a fresh one; the interpreter keeps a little of every game."""
_REFUSED = "That's not a verb I recognise."
_SIGNIFICANT = 9
"""The interpreter tells words apart by so many letters."""
_META = (
    *("save", "restore", "restart", "quit", "q", "undo", "die", "oops", "o", "script", "unscript", "noscript"),
    *("transcript", "recording", "replay", "commands", "print_state", "enable", "disable", "restrict"),
)
"""Words that command the interpreter rather than the player: they write files, end the game or show its state."""
_META_BEGINNINGS = frozenset(word[:_SIGNIFICANT] for word in _META)
_NEXT_COMMAND = re.compile(r"[.;]|\bthen\b", re.IGNORECASE)
"""What separates commands of one line: only the first is given, because a line of several mixes up the score."""


class TextWorldEnv(TextEnv):
    """Text adventures: cooking, collecting a coin, hunting a treasure, or any game that TextWorld has made.

    By default the reward of a turn is the gain in score over the highest score that can be reached, so that an episode
    that is won adds up to 1.0. Commands to the interpreter (save, restart, undo and so on) are not understood.

    Args:
        games: Game files (.z1 to .z8, .json, or .ulx beside its .json), or folders of them; generated games if None.
        challenge: What to generate: a name of `CHALLENGES`.
        settings: Of the challenge, over its defaults.
        size: Generated games a split; each takes a second or two when it is first played, and then lies on disk.
        split: "train", "valid" or "test": disjoint seeds, or the folders of these names.
        reward: "score", or "success" for 1.0 at the turn that wins and 0.0 at every other.
        admissible: Whether to list the admissible commands; a turn takes about half as long without.
        cache: The folder that keeps generated games; below the cache of agent_gym if None.
        call_timeout: Seconds that a turn may take before the worker is ended and the episode fails.
        max_turns: The episode is truncated after so many turns.
        render_mode: "ansi" or None.

    Raises:
        MissingExtraError: textworld is not installed.
        UnknownIdError: No such challenge, setting, split or reward.
        ConfigError: The size is out of range.
        GameError: The paths in `games` hold no game.
    """

    splits: ClassVar[tuple[str, ...]] = SPLITS
    task_noun: ClassVar[str] = "game"
    requirements: ClassVar[tuple[str, ...]] = ("textworld",)
    blocking: bool = True

    def __init__(
        self,
        games: str | Path | Sequence[str | Path] | None = None,
        *,
        challenge: str = "cooking",
        settings: Mapping[str, Any] | None = None,
        size: int = SEEDS_A_SPLIT,
        split: str = "train",
        reward: Reward = "score",
        admissible: bool = True,
        cache: str | Path | None = None,
        call_timeout: float = 30.0,
        max_turns: int = 50,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(max_turns=max_turns, split=split, render_mode=render_mode)
        if importlib.util.find_spec("textworld") is None:
            raise MissingExtraError.of("textworld", "TextWorld")
        if reward not in ("score", "success"):
            raise UnknownIdError.of("reward", reward, ("score", "success"))

        folder = Path(cache) if cache is not None else cache_folder() / "textworld"
        if games is None:
            self._games: GeneratedGames | GivenGames = GeneratedGames(challenge, settings or {}, size, folder)
        else:
            self._games = GivenGames([games] if isinstance(games, str | Path) else games, folder)
        self._by_success = reward == "success"
        self._list_admissible = admissible
        self._timeout = call_timeout
        self._makers: Makers | None = None
        self._host: Host | None = None
        self._episodes = 0
        self._frame: Frame | None = None

    def tasks(self, split: str) -> Sequence[Task]:
        """Return the games of a split; nothing is generated or loaded."""
        return self._games.tasks(split)

    def find_task(self, task_id: str) -> Task:
        """Return the game with that id, from whichever split has it.

        Raises:
            UnknownIdError: There is no such game.
        """
        return self._games.find(task_id)

    def expert(self) -> Iterator[str] | None:
        """Return the commands that win the current game from its start; None where its makers left none."""
        if self._host is None:
            return None
        commands = self._host.call("walkthrough")
        return iter(commands) if commands else None

    def data_files(self) -> Mapping[str, Path]:
        """Return the files of games that were given."""
        return self._games.files()

    def close(self) -> None:
        """End the worker."""
        self._makers = None
        if self._host is not None:
            self._host.close()
            self._host = None

    def _start(self, task: Task, rng: random.Random) -> tuple[str, State]:
        if self._makers is None:
            self._makers = Makers.shared()
        path = self._games.path(task, self._makers)
        self._frame = self._worker().call("start", str(path.resolve()), rng.randrange(2**31))
        return self._frame.text, self._state(self._frame, reward=0.0, invalid=False)

    def _act(self, action: str) -> tuple[str, State]:
        before = self._frame
        if before is None or self._host is None:
            raise EpisodeEnded("There is no game yet: call reset() first.")
        command = _typed(action)
        if command not in (before.admissible or ()) and _commands_the_interpreter(command):
            return _REFUSED, self._state(before, reward=0.0, invalid=True)
        frame = self._frame = self._host.call("act", command)
        understood = frame.acted or command in (before.admissible or ())
        gained = float(frame.won) if self._by_success else (frame.score - before.score) / max(frame.max_score, 1)
        return frame.text, self._state(frame, reward=gained, invalid=not understood)

    def _state(self, frame: "Frame", *, reward: float, invalid: bool) -> State:
        admissible = frame.admissible
        return State(
            goal=frame.objective,
            reward=reward,
            terminated=frame.won or frame.lost,
            success=frame.won,
            score=float(frame.won) if not frame.max_score else min(max(frame.score / frame.max_score, 0.0), 1.0),
            invalid_action=invalid,
            admissible=None if admissible is None else lambda: list(admissible),
            extra={"lost": frame.lost},
        )

    def _worker(self) -> Host:
        """Return the worker, a fresh one where there is none that lives or it has played for long."""
        if self._host is not None and (self._episodes >= _RECYCLE or not self._host.alive):
            self.close()
        if self._host is None:
            self._host = Host(f"{BACKEND}:Player", self._list_admissible, timeout=self._timeout, name="TextWorld")
            self._episodes = 0
        self._episodes += 1
        return self._host

    def _copy(self) -> Self:
        twin = copy.copy(self)
        twin._host = self._host.fork() if self._host is not None else None
        return twin


def _typed(action: str) -> str:
    """Return an action as one command that the interpreter can read; a backslash would begin a command to it."""
    printable = "".join(
        character if " " <= character <= "~" and character not in '\\"' else " "
        for character in action[: 10 * _LONGEST_ACTION]
    )
    first = _NEXT_COMMAND.split(printable)[0]
    return " ".join(first.split())[:_LONGEST_ACTION]


def _commands_the_interpreter(command: str) -> bool:
    """Return whether a command, or what follows a comma in it ("you, save"), is one to the interpreter."""
    beginnings = (part.split()[0].lower() for part in command.split(",") if part.strip())
    return any(word.startswith("tw-") or word[:_SIGNIFICANT] in _META_BEGINNINGS for word in beginnings)
