"""What runs in the worker process: TextWorld plays a game here, or makes one.

The only file that touches TextWorld. It is imported by the worker alone: the parser is not thread-safe, the
interpreter is a native library, and both write what they like into the process.
"""

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import textworld
from textworld.challenges import CHALLENGES as OFFICIAL
from textworld.generator import compile_game, make_game
from textworld.generator.game import Game, GameOptions

from agent_gym.errors import GameError

_STATUS_LINE = re.compile(r"\n>[^\n]*\Z")
_BANNER = re.compile(r"\A(?:[ _|\\/$<>]*\n)+")
_AFTERWORDS = re.compile(r"\n+Would you like to RESTART,.*\Z", re.DOTALL)
_BLANK_LINES = re.compile(r"\n{3,}")


@dataclass(frozen=True, slots=True)
class Frame:
    """What a game says after a turn."""

    text: str
    objective: str
    score: int
    max_score: int
    won: bool
    lost: bool
    acted: bool
    """Whether the game counted the last command as a move."""
    admissible: tuple[str, ...] | None


class Player:
    """Plays games, one after the other.

    Args:
        admissible: Whether to keep track of the admissible commands (a turn takes twice as long).
    """

    def __init__(self, admissible: bool) -> None:
        self._infos = textworld.EnvInfos(
            admissible_commands=admissible, moves=True, score=True, max_score=True, objective=True, won=True, lost=True
        )
        self._game: Any = None
        self._path = ""
        self._moves = 0
        # Should the interpreter be brought to write a file after all, there is no folder to put it into.
        folder = tempfile.mkdtemp()
        os.chdir(folder)
        Path(folder).rmdir()

    def start(self, path: str, seed: int) -> Frame:
        """Begin a game anew.

        Args:
            path: A game file, absolute; a .z8 of TextWorld's has its .json beside it.
            seed: Of the interpreter's own dice.

        Raises:
            GameError: Nobody can tell how the game is scored.
        """
        if path != self._path:
            self.close()
            self._game = textworld.start(path, self._infos)
            self._path = path
        self._game.seed(seed)
        self._moves = 0
        state = self._game.reset()
        if state.get("max_score") is None or state.get("won") is None:
            raise GameError(f"{path} cannot be scored: put the .json that it was made from beside it.")
        return self._frame(state)

    def act(self, command: str) -> Frame:
        """Give the game one line."""
        state, _, _ = self._game.step(command)
        return self._frame(state)

    def walkthrough(self) -> list[str] | None:
        """Return commands that win the game from its start, or None where the game's makers left none."""
        game = self._game.state.get("game")
        found = game.metadata.get("walkthrough") if game is not None else None
        return found if isinstance(found, list) else None

    def close(self) -> None:
        """Let go of the interpreter."""
        if self._game is not None:
            self._game.close()

    def _frame(self, state: Any) -> Frame:
        moves = state.get("moves") or 0
        acted, self._moves = moves > self._moves, moves
        admissible = state.get("admissible_commands")
        return Frame(
            text=_clean(state["feedback"]),
            objective=str(state.get("objective") or ""),
            score=int(state.get("score") or 0),
            max_score=int(state.get("max_score") or 0),
            won=bool(state.get("won")),
            lost=bool(state.get("lost")),
            acted=acted,
            admissible=None if admissible is None else tuple(admissible),
        )


def _clean(text: str) -> str:
    """Return what a player should read: no banner, no prompt, no status line, no menu after the end."""
    text = _STATUS_LINE.sub("", _BANNER.sub("", text).rstrip())
    text = _AFTERWORDS.sub("", text)
    return _BLANK_LINES.sub("\n\n", text).strip()


class Maker:
    """Makes games. The first takes longer, because the grammars have to be parsed; a game depends on its seed alone."""

    def generate(self, challenge: str, settings: Mapping[str, Any], seed: int, path: str) -> None:
        """Generate a game and compile it.

        Args:
            challenge: A name of TextWorld's own, such as "tw-cooking", or "custom".
            settings: Of the challenge.
            seed: From it everything in the game follows.
            path: Where the .z8 goes; the .json and the source go beside it.
        """
        options = GameOptions()
        options.seeds, options.path, options.force_recompile = seed, path, True
        if challenge == "custom":
            for name, value in settings.items():
                setattr(options, name, value)
            game = make_game(options)
        else:
            game = OFFICIAL[challenge][1](settings, options)
        compile_game(game, options)

    def compile(self, source: str, path: str) -> None:
        """Compile the game that a .json file describes."""
        options = GameOptions()
        options.path, options.force_recompile = path, True
        compile_game(Game.load(source), options)


def version() -> str:
    """Return TextWorld's version."""
    return str(textworld.__version__)
