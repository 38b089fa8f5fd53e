"""The official ALFWorld engine behind the interface of our simulator, and a walk of both at random to compare them."""

import importlib.util
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Self

from agent_gym.envs.alfworld.engine import Simulator
from agent_gym.envs.alfworld.loading import GameText
from agent_gym.envs.alfworld.scene import Game
from agent_gym.envs.host import Host
from agent_gym.errors import MissingExtraError

if TYPE_CHECKING:
    from agent_gym.envs.alfworld.reference_backend import Frame

_BACKEND = "agent_gym.envs.alfworld.reference_backend:OfficialGame"
_START_SECONDS = 300.0
"""The engine translates the problem four times; a large game on a busy machine takes its time."""
_NONSENSE = ("", "dance", "look around", "go to", "go to nowhere 1", "take all", "LOOK", " inventory ")
_IDLE = ("go", "examine", "help", "look", "inventory")
_CURIOSITY = 0.15
"""Share of turns of a walk that go to something which cannot be done."""


def reference_installed() -> bool:
    """Return whether the extra alfworld-reference is there."""
    return all(importlib.util.find_spec(name) is not None for name in ("alfworld", "textworld", "fast_downward"))


class ReferenceSimulator:
    """Plays a game with the official engine in a worker process; has what `Simulator` has.

    Args:
        host: The worker; it plays one game at a time.
        game: The game.
        text: The same game as it is written where it is stored.
        put_alias: Understand "put X in/on Y" as well as "move X to Y", whatever the game's own dialect.
    """

    def __init__(self, host: Host, game: Game, text: GameText, *, put_alias: bool = False) -> None:
        self.game = game
        self.won = False
        self.invalid = False
        self._host = host
        self._text = text
        self._put_alias = put_alias
        self._admissible: tuple[str, ...] = ()

    def start(self) -> str:
        """Begin the game anew and return the first observation."""
        text = self._text
        frame = self._host.call("start", text.task, text.problem, text.dialect, timeout=_START_SECONDS)
        return self._told(frame)

    def step(self, command: str) -> str:
        """Apply one command and return what the engine says."""
        return self._told(self._host.call("act", self._translated(command)))

    def admissible(self) -> list[str]:
        """Return the commands that would have an effect or an answer now, sorted."""
        return list(self._admissible)

    def snapshot(self) -> Callable[[], list[str]]:
        """Return a function that returns the admissible commands of this moment."""
        commands = self._admissible
        return lambda: list(commands)

    def copy(self) -> Self:
        """Return an independent twin in the same state; its worker is a fork of this one's."""
        twin = type(self)(self._host.fork(), self.game, self._text, put_alias=self._put_alias)
        twin.won, twin.invalid, twin._admissible = self.won, self.invalid, self._admissible
        return twin

    @property
    def host(self) -> Host:
        """The worker."""
        return self._host

    def _told(self, frame: "Frame") -> str:
        self._admissible, self.won, self.invalid = frame.admissible, frame.won, not frame.known
        return frame.text

    def _translated(self, command: str) -> str:
        if not self._put_alias:
            return command
        verb, _, rest = command.strip().partition(" ")
        if self.game.dialect == "move" and verb == "put" and " in/on " in rest:
            return "move " + rest.replace(" in/on ", " to ", 1)
        if self.game.dialect == "put" and verb == "move" and " to " in rest:
            return "put " + rest.replace(" to ", " in/on ", 1)
        return command


def open_reference(timeout: float = 60.0) -> Host:
    """Start a worker with the official engine.

    Raises:
        MissingExtraError: It is not installed.
        WorkerError: It does not start.
    """
    if not reference_installed():
        raise MissingExtraError.of("alfworld-reference", "The official ALFWorld engine")
    return Host(_BACKEND, timeout=timeout, name="the official ALFWorld engine")


def walk_both(host: Host, game: Game, text: GameText, rng: random.Random, turns: int) -> Iterator[str]:
    """Walk both engines through a game with the same commands, most of them admissible; yield each command.

    Args:
        host: See `open_reference`.
        game: The game.
        text: The same game as it is written.
        rng: Draws the commands.
        turns: How many, if the game is not won before.

    Raises:
        AssertionError: They differ; the message says in what and after which commands.
    """
    official, ours = ReferenceSimulator(host, game, text), Simulator(game)
    commands: list[str] = []
    _compare(commands, official.start(), ours.start(), official, ours)
    for _ in range(turns):
        curious = rng.random() < _CURIOSITY
        command = rng.choice(_NONSENSE) if curious else _prefer_deeds(official.admissible(), rng)
        commands.append(command)
        _compare(commands, official.step(command), ours.step(command), official, ours)
        yield command
        if official.won:
            return


def _prefer_deeds(commands: list[str], rng: random.Random) -> str:
    """Draw a command, rather one that changes something: most of the admissible ones go elsewhere or look again."""
    deeds = [
        command for command in commands if command.split()[0] not in ("go", "examine", "help", "look", "inventory")
    ]
    return rng.choice(deeds if deeds and rng.random() < 0.6 else commands)


def _compare(commands: list[str], said: str, says: str, official: ReferenceSimulator, ours: Simulator) -> None:
    here = f"game {ours.game.id!r} after {commands}"
    assert said == says, f"the official engine says {said!r} and ours {says!r} in {here}"
    assert official.won == ours.won, f"won is {official.won} officially and {ours.won} with us in {here}"
    # What is not admissible is answered alike; whether spaces around a command count as a fault is left to each.
    theirs, listed = official.admissible(), ours.admissible()
    assert theirs == listed, f"the admissible commands differ by {sorted(set(theirs) ^ set(listed))} in {here}"
