"""Games of TextArena as TextEnvs: one player is the agent, the others are played by a function.

Source: Guertler et al., "TextArena", 2025 (the package textarena, 0.7.4).

Games that need nothing but the package are, for one player: 2048, Bandit, Blackjack, Countdown, Crosswords,
Cryptarithm, FifteenPuzzle, FrozenLake, GuessTheNumber, LightsOut, LogicPuzzle, Mastermind, Minesweeper, PegJump,
RushHour, Secretary, Set, Slitherlink, Sokoban, Sudoku, ThreeCardMonte and TowerOfHanoi. Word games (Wordle, Hangman,
WordLadder, WordSearch, SpellingBee, WordChains, DontSayIt, LetterAuction, Codenames) need word lists of nltk, which are
never downloaded here; a few games ask a model on the internet and need a key for it; a few need Python 3.12.
"""

import copy
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final, Self

from agent_gym.env import State, Task
from agent_gym.envs.seeded import Dice, SeededEnv, seed_of
from agent_gym.errors import ConfigError, EpisodeEnded, MissingExtraError, UnknownIdError
from agent_gym.task_ids import SEEDS_A_SPLIT

Opponent = Callable[[str], str]
"""Answers with a move to everything that a player has been told so far."""

_AGENT: Final = 0
"""The number of the agent among the players."""
_MOST_PLAYERS: Final = 15
_LONGEST_ACTION: Final = 8192
_LONGEST_WAIT: Final = 1000
"""Moves of others in a row, before a game is taken for stuck."""


class TextArenaEnv(SeededEnv):
    """A game of TextArena. The reward is the game's own, at its end; the game is won where that is 1 or more.

    An observation is what the agent has been told since its last move, not the whole story that TextArena repeats each
    time. An action is text in which the game looks for a move, mostly in square brackets; most games put brackets
    around an action that has none. Most games end at the second invalid move in a row. A game draws from generators of
    its own, never from the process's.

    Args:
        game: Its id in TextArena.
        split: "train", "valid" or "test"; they are disjoint ranges of seeds.
        max_turns: The episode is truncated after so many turns; most games have their own limit as well.
        opponent: Plays all other players; needed where the game has any. It should answer the same text alike, or
            episodes cannot be repeated.
        players: How many play; the fewest that the game accepts if None.
        size: Tasks a split.
        render_mode: "ansi" or None.
        **game_options: Arguments of the game, for example `max_number=50`.

    Raises:
        MissingExtraError: textarena is not installed.
        UnknownIdError: There is no such game.
        ConfigError: The game cannot be made, or it has other players and there is no opponent.
    """

    requirements: ClassVar[tuple[str, ...]] = ("textarena",)

    def __init__(
        self,
        game: str = "GuessTheNumber-v0",
        *,
        split: str = "train",
        max_turns: int = 50,
        opponent: Opponent | None = None,
        players: int | None = None,
        size: int = SEEDS_A_SPLIT,
        render_mode: str | None = None,
        **game_options: Any,
    ) -> None:
        super().__init__(split=split, max_turns=max_turns, size=size, render_mode=render_mode)
        self._name, self._options, self._opponent = game, game_options, opponent
        self._players = _table_size(game, game_options, players)
        if self._players > 1 and opponent is None:
            raise ConfigError(
                f"The game {game} has {self._players} players: give opponent=, a function that answers what a player "
                "has been told with a move."
            )
        self._table: _Table | None = None

    def _family(self, seed: int) -> str:
        return self._name

    def _start(self, task: Task, rng: random.Random) -> tuple[str, State]:
        self._table = _Table(self._name, self._options, self._players, seed_of(task))
        return self._after_others(self._table)

    def _act(self, action: str) -> tuple[str, State]:
        table = self._playing()
        table.act(action if len(action) <= _LONGEST_ACTION else "")
        invalid = table.invalid
        observation, state = self._after_others(table)
        state.invalid_action = invalid
        return observation, state

    def _after_others(self, table: "_Table") -> tuple[str, State]:
        """Let the others move until it is the agent's turn or the game is over."""
        for _ in range(_LONGEST_WAIT):
            if table.done or table.turn_of == _AGENT:
                break
            if self._opponent is None:
                raise ConfigError(f"In the game {self._name} player {table.turn_of} is to move: give opponent=.")
            table.act(self._opponent(table.told(table.turn_of)))
        else:
            raise ConfigError(
                f"The opponent has made {_LONGEST_WAIT} moves in a row in the game {self._name}: check that it answers "
                "with valid moves."
            )
        reward = table.reward if table.done else 0.0
        state = State(
            goal=f"Win the game {self._name}.",
            reward=reward,
            terminated=table.done,
            success=table.done and reward >= 1,
            score=min(max(reward, 0.0), 1.0),
        )
        return table.news(), state

    def _copy(self) -> Self:
        twin = copy.copy(self)
        twin._table = self._table.copy() if self._table else None
        return twin

    def _playing(self) -> "_Table":
        if self._table is None:
            raise EpisodeEnded("There is no game yet: call reset() first.")
        return self._table


class _Table:
    """One game being played: TextArena's object, what each player has been told, and the dice."""

    def __init__(self, name: str, options: dict[str, Any], players: int, seed: int) -> None:
        self._dice = Dice(seed)
        with self._dice.on_the_table(), _offline():
            # An object of TextArena is good for one game: some of what a game leaves behind survives its reset.
            self._game = _textarena().make(name, **options)
            self._game.reset(num_players=players, seed=seed)
        self._told: dict[int, list[str]] = {}
        self._read = 0
        self.done = False
        self.invalid = False
        self._listen()

    @property
    def turn_of(self) -> int:
        """The player who is to move."""
        return int(self._state.current_player_id)

    @property
    def reward(self) -> float:
        """The agent's reward at the end of the game."""
        given = (self._state.rewards or {}).get(_AGENT, 0.0)
        # Some games mix up the reward and the reason for it when a move is invalid.
        return float(given) if isinstance(given, int | float) else 0.0

    def act(self, action: str) -> None:
        """Make a move of the player whose turn it is."""
        player = self.turn_of
        try:
            with self._dice.on_the_table(), _offline():
                self.done = bool(self._game.step(action)[0])
        except Exception as error:  # noqa: BLE001 - some games raise whatever comes on moves that they do not foresee
            self.invalid = True
            self._hear(player, f"[GAME] This move is not understood ({type(error).__name__}).")
            return
        fouls = getattr(self._state, "error_count", 0)
        self.invalid = fouls > 0 or bool(self._state.game_info.get(player, {}).get("invalid_move"))
        self._listen(mover=player)
        if self.done:
            reason = self._state.game_info.get(_AGENT, {}).get("reason")
            self._hear(_AGENT, f"[GAME] {reason or 'The game is over.'}")

    def told(self, player: int) -> str:
        """Return everything that a player has been told."""
        return "\n".join(self._told.get(player, []))

    def news(self) -> str:
        """Return what the agent has been told since it was last asked."""
        heard = self._told.get(_AGENT, [])
        fresh, self._read = heard[self._read :], len(heard)
        return "\n".join(fresh)

    def copy(self) -> Self:
        """Return a game that goes on from here by itself."""
        return copy.deepcopy(self)

    @property
    def _state(self) -> Any:
        return _innermost(self._game).state

    def _listen(self, mover: int | None = None) -> None:
        """Take what the game has to tell to each player; who has just moved need not be told the move."""
        state = self._state
        for player, messages in state.observations.items():
            for sender, message, kind in messages:
                # In some games the echo of a move has its parts mixed up, and then its sender is no number.
                echo = not isinstance(sender, int) or (player == mover and kind.name == "PLAYER_ACTION")
                if not echo:
                    self._hear(player, f"[{state.role_mapping.get(sender, f'Player {sender}')}] {message}")
            state.observations[player] = []

    def _hear(self, player: int, text: str) -> None:
        self._told.setdefault(player, []).append(text)


def _innermost(game: Any) -> Any:
    """Return the game without its wrappers, which repeat everything that was ever said."""
    while "env" in vars(game):
        game = game.env
    return game


def _textarena() -> Any:
    try:
        import textarena
    except ImportError as error:
        raise MissingExtraError.of("textarena", "Playing games of TextArena") from error
    return textarena


def _table_size(name: str, options: dict[str, Any], players: int | None) -> int:
    """Make the game once, to see whether that works and how many play it."""
    textarena = _textarena()
    known = textarena.envs.registration.ENV_REGISTRY
    if name not in known:
        raise UnknownIdError.of("game of TextArena", name, known)
    refusal: Exception = ValueError("no number of players is accepted")
    for count in range(1, _MOST_PLAYERS + 1) if players is None else (players,):
        try:
            table = _Table(name, options, count, seed=0)
            return int(table._state.num_players)
        except (AssertionError, ValueError) as error:
            # So the games tell that they cannot be played by so many.
            refusal = refusal if players is None and count > 1 else error
        except LookupError as error:
            raise ConfigError(
                f"The game {name} needs word lists that are not installed: run python -m nltk.downloader words "
                "averaged_perceptron_tagger_eng."
            ) from error
        except Exception as error:
            raise ConfigError(
                f"TextArena cannot make the game {name} ({_first_line(error)}): choose another."
            ) from error
    raise ConfigError(
        f"TextArena cannot make the game {name} ({_first_line(refusal)}): check players= and its options."
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


@contextmanager
def _offline() -> Iterator[None]:
    """Keep word games from downloading: they would, each time that one is made, even where they have what they need.

    To be used while the dice are on the table: what it changes belongs to the whole process.
    """
    nltk: Any = sys.modules.get("nltk")
    if nltk is None:
        yield
        return
    download, nltk.download = nltk.download, lambda *arguments, **options: False
    try:
        yield
    finally:
        nltk.download = download
