"""`agent-gym new`: the beginnings of an environment or a tool, which work and have tests."""

import builtins
import importlib.util
import keyword
import re
from pathlib import Path
from string import Template
from typing import Final

from rich.console import Console

from agent_gym.errors import ConfigError

_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
_LONGEST: Final = 30
"""Characters of a name; with longer ones, lines of the files would be too long."""
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

from agent_gym.envs.conformance import conform

from $name import $title


def test_the_environment_does_what_every_environment_must() -> None:
    """What `agent-gym check` says: determinism, forks, bad actions and so on."""
    checks = list(conform(lambda: $title(max_turns=5)))
    assert [check for check in checks if check.passed is False] == []


def test_the_right_word_solves_the_task() -> None:
    """And nothing else does."""
    env = $title()
    env.reset(options={"task": "lamp"})
    observation, reward, terminated, _, info = env.step("lamp")
    assert (reward, terminated, info["invalid_action"]) == (0.0, False, True)
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

from agent_gym import Toolbox, ToolCall

from $name import $name


def test_the_tool_answers() -> None:
    """It is called as an agent calls it."""
    with Toolbox([$name]) as toolbox:
        assert toolbox.call(ToolCall("$name", {"text": "abc", "times": 2})).text == "cba cba"


def test_a_wrong_call_is_told_to_the_agent() -> None:
    """Arguments of another type, or that the tool refuses, are answered with the reason."""
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
    title = _class_name(_checked(name))
    _write(folder, {f"{name}.py": _ENVIRONMENT, f"test_{name}.py": _ENVIRONMENT_TEST}, name, title)
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
    _write(folder, {f"{name}.py": _TOOL, f"test_{name}.py": _TOOL_TEST}, _checked(name), _class_name(name))
    _say_next(
        folder,
        f"pytest test_{name}.py",
        f"agent-gym play math --option 'tools=[{name}.py:{name}]'",
        f"agent-gym serve-tools {name}.py:{name}",
    )


def _checked(name: str) -> str:
    """Return a name that a module, and what is in it, can have without hiding anything."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot be the name of a module: use small letters, digits and '_', as my_env.")
    if len(name) > _LONGEST:
        raise ConfigError(f"The name {name!r} is longer than {_LONGEST} characters: choose a shorter one.")
    if keyword.iskeyword(name) or hasattr(builtins, name) or _used(name) or _used(_class_name(name)):
        raise ConfigError(f"{name!r} has a meaning in Python or agent_gym: choose another name, as my_{name}.")
    return name


def _used(word: str) -> bool:
    """Return whether one of the files that are written imports something of that name."""
    files = "".join((_ENVIRONMENT, _ENVIRONMENT_TEST, _TOOL, _TOOL_TEST))
    return re.search(rf"^(from|import) .*(?<!\$)\b{word}\b", files, re.MULTILINE) is not None


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _write(folder: Path, templates: dict[str, str], name: str, title: str) -> None:
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder}: make it first.")
    for file in templates:
        if (folder / file).exists():
            raise ConfigError(f"{folder / file} is there already: choose another name or folder.")
    if importlib.util.find_spec(name) is not None:
        raise ConfigError(f"A module {name!r} is installed, which {name}.py would hide: choose another name.")
    for file, template in templates.items():
        try:
            with (folder / file).open("x", encoding="utf-8") as target:
                target.write(Template(template).substitute(name=name, title=title))
        except OSError as error:
            raise ConfigError(f"{folder / file} cannot be written: {error}.") from error


def _say_next(folder: Path, *commands: str) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"Written to {folder}. Next, there:")
    for command in commands:
        console.print(f"  {command}")
