"""What runs in the worker process of the reference engine: the official ALFWorld game, as it is released.

The only file that touches alfworld and textworld's PDDL environment. A native library keeps its state in the process,
the grammar's parser is not thread-safe, and both write to sys.argv and sys.stdout while they load a game.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# alfworld makes its data folder when it is imported; nothing of it is used here.
os.environ.setdefault("ALFWORLD_DATA", tempfile.gettempdir())

import textworld
from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
from alfworld.info import ALFRED_PDDL_PATH, ALFRED_TWL2_PATH
from textworld.envs.pddl import PddlEnv

_WELCOME = "-= Welcome to TextWorld, ALFRED! =-\n\n"
_PUT = {
    'template :: "move {o} to {r}";\n    feedback :: "#PutObject.feedback#";': (
        'template :: "put {o} in/on {r}";\n    feedback :: "#PutObject.feedback#";'
    ),
    "You move the {o.name} to the {r.name}.": "You put the {o.name} in/on the {r.name}.",
}
"""How the grammar of today's release becomes that of the older ones, as far as placing things goes."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What the official engine says after a turn."""

    text: str
    admissible: tuple[str, ...]
    won: bool
    known: bool
    """Whether the last command was among the admissible ones."""


class OfficialGame:
    """Plays games with the official engine, one after the other."""

    def __init__(self) -> None:
        infos = textworld.EnvInfos(admissible_commands=True, won=True)
        self._env: Any = AlfredDemangler(PddlEnv(infos), shuffle=False)
        self._admissible: tuple[str, ...] = ()

    def start(self, task: str, problem: str, dialect: str) -> Frame:
        """Begin a game.

        Args:
            task: The sentence that says what to do.
            problem: The PDDL problem.
            dialect: "move", or "put" for the grammar of the older releases.
        """
        grammar = Path(ALFRED_TWL2_PATH).read_text(encoding="utf-8").replace("UNKNOWN GOAL", task)
        if dialect == "put":
            for now, then in _PUT.items():
                grammar = grammar.replace(now, then)
        domain = Path(ALFRED_PDDL_PATH).read_text(encoding="utf-8")
        self._env.load({"pddl_domain": domain, "grammar": grammar, "pddl_problem": problem, "solvable": True})
        return self._frame(self._env.reset(), known=True)

    def act(self, command: str) -> Frame:
        """Give the engine a command."""
        known = command.strip() in self._admissible
        state, _, _ = self._env.step(command)
        return self._frame(state, known=known)

    def _frame(self, state: Any, *, known: bool) -> Frame:
        self._admissible = tuple(state["admissible_commands"])
        return Frame(state["feedback"].removeprefix(_WELCOME), self._admissible, bool(state["won"]), known)
