"""`agent-gym new`: the beginnings of an environment or a tool, which work and have tests."""

from pathlib import Path
from string import Template
from typing import Final

from rich.console import Console

from agent_gym.errors import ConfigError

_ENVIRONMENT: Final = '''"""$title: say what an agent does here."""

import random
from collections.abc import Iterator, Sequence
from typing import ClassVar

from agent_gym import State, Task, TextEnv

WORDS = ("apple", "bread", "lamp", "mug", "plate", "spoon")


class $title(TextEnv):
    """An agent reads a word and says it backwards; put your own world in its place."""

    splits: ClassVar[tuple[str, ...]] = ("train", "valid")

    def tasks(self, split: str) -> Sequence[Task]:
        """Return the tasks of a split."""
        words = WORDS[:4] if split == "train" else WORDS[4:]
        return [Task(word, split) for word in words]

    def expert(self) -> Iterator[str]:
        """Return the actions that solve the task."""
        return iter([self._word[::-1]])

    def _start(self, task: Task, rng: random.Random) -> tuple[str, State]:
        self._word = task.id
        return f"Say {self._word} backwards.", State(goal="say the word backwards")

    def _act(self, action: str) -> tuple[str, State]:
        solved = action.strip() == self._word[::-1]
        state = State(
            goal="say the word backwards",
            reward=float(solved),
            terminated=solved,
            success=solved,
            score=float(solved),
            invalid_action=not solved,
        )
        return "Right." if solved else "No.", state
'''
_ENVIRONMENT_TEST: Final = '''"""What must hold for the environment $title."""

from $name import $title

from agent_gym.envs.conformance import conform


def test_the_environment_does_what_every_environment_must() -> None:
    failed = {check.name: check.detail for check in conform(lambda: $title(max_turns=5)) if check.passed is False}
    assert failed == {}


def test_the_right_word_solves_the_task() -> None:
    env = $title()
    env.reset(options={"task": "lamp"})
    observation, reward, terminated, _, info = env.step("pmal")
    assert (observation, reward, terminated, info["success"]) == ("Right.", 1.0, True, True)
'''
_TOOL: Final = '''"""$title: say what the tool is for."""

from agent_gym import tool


@tool
def $name(text: str, times: int = 1) -> str:
    """Say a text backwards; put what your tool does in its place.

    Args:
        text: What to say.
        times: How often, from 1 to 10.
    """
    if not 1 <= times <= 10:
        raise ValueError("times must be from 1 to 10")
    return " ".join([text[::-1]] * times)
'''
_TOOL_TEST: Final = '''"""What must hold for the tool $name."""

from $name import $name

from agent_gym import ToolCall, Toolbox


def test_the_tool_answers() -> None:
    with Toolbox([$name]) as toolbox:
        assert toolbox.call(ToolCall("$name", {"text": "abc", "times": 2})).text == "cba cba"


def test_a_wrong_call_is_told_to_the_agent() -> None:
    with Toolbox([$name]) as toolbox:
        result = toolbox.call(ToolCall("$name", {"text": "abc", "times": "many"}))
        assert result.status == "invalid" and "times" in result.text
        assert toolbox.call(ToolCall("$name", {"text": "abc", "times": 11})).status == "error"
'''


def make_environment(name: str, folder: Path) -> None:
    """Write an environment and its tests, and say what to type next.

    Raises:
        ConfigError: The name cannot be used, or a file is there already.
    """
    title = _title(name)
    _write(folder, name, title, _ENVIRONMENT, _ENVIRONMENT_TEST)
    _say_next(
        folder,
        f"agent-gym check {name}.py:{title}",
        f"pytest test_{name}.py",
        f"agent-gym play {name}.py:{title}",
        f"agent-gym train --env {name}.py:{title}",
    )


def make_tool(name: str, folder: Path) -> None:
    """Write a tool and its tests, and say what to type next.

    Raises:
        ConfigError: The name cannot be used, or a file is there already.
    """
    _write(folder, name, _title(name), _TOOL, _TOOL_TEST)
    _say_next(
        folder,
        f"pytest test_{name}.py",
        f"agent-gym play math --option 'tools=[{name}.py:{name}]'",
        f"agent-gym serve-tools {name}.py:{name}",
    )


def _title(name: str) -> str:
    if not (name.isidentifier() and name.islower()):
        raise ConfigError(f"{name!r} cannot be the name of a module: use small letters, digits and '_', as my_env.")
    return "".join(part.capitalize() for part in name.split("_")) or name


def _write(folder: Path, name: str, title: str, text: str, test: str) -> None:
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder}: make it first.")
    for path, template in ((folder / f"{name}.py", text), (folder / f"test_{name}.py", test)):
        try:
            with path.open("x") as file:
                file.write(Template(template).substitute(name=name, title=title))
        except FileExistsError as error:
            raise ConfigError(f"{path} is there already: choose another name or folder.") from error
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error}.") from error


def _say_next(folder: Path, *commands: str) -> None:
    console = Console(highlight=False)
    console.print(f"Written to {folder}. Next, there:")
    for command in commands:
        console.print(f"  {command}", markup=False)
