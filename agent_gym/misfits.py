"""What the methods of an environment of one's own must return: whatever else they do is refused in a sentence.

The methods `tasks`, `_start` and `_act` are written by whoever brings an environment; here is what they are held to, so
that a mistake is told where it was made and not where something else breaks of it.
"""

import inspect
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agent_gym.env import State, Task
from agent_gym.errors import EnvError

if TYPE_CHECKING:
    from agent_gym.env import TextEnv

_GYMNASIUM_VALUES = (4, 5)
"""How many values the `step` of a gymnasium environment returns, and did before 2022."""


def fitted(env: "TextEnv", method: str, answer: Any) -> tuple[str, State]:
    """Return what `_start` or `_act` gave, its reward as a float.

    Args:
        env: The environment.
        method: Which method it was.
        answer: What it returned.

    Raises:
        EnvError: It is not a text and a `State` whose reward is a finite number; the sentence says what it is.
    """
    who = f"{type(env).__name__}.{method}"
    if inspect.iscoroutine(answer):
        answer.close()
        raise EnvError(f"{who} is async: write a plain def, and blocking = True in the class where a turn waits.")
    if isinstance(answer, tuple) and len(answer) in _GYMNASIUM_VALUES:
        raise EnvError(
            f"{who} returned {len(answer)} values, as gymnasium's step does: return (observation, State(goal=..., "
            "reward=..., terminated=...)), or wrap a gymnasium environment with TextEnv.from_gymnasium."
        )
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise EnvError(f"{who} returned {_kind(answer)}: return (observation, State(goal=...)).")
    observation, state = answer
    if not isinstance(observation, str):
        raise EnvError(f"{who} returned {_kind(observation)} as the observation: return a text, a str.")
    if not isinstance(state, State):
        raise EnvError(f"{who} returned {_kind(state)} beside the observation: return a State(goal=...) there.")
    return observation, replace(state, reward=_reward(who, state.reward))


def _reward(who: str, reward: Any) -> float:
    try:
        number = math.nan if isinstance(reward, str) else float(reward)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise EnvError(f"{who} returned a State with the reward {reward!r}: it must be a finite number.")
    return number


def tasks_of(env: "TextEnv", split: str) -> Sequence[Task]:
    """Return the tasks of a split.

    Raises:
        EnvError: They are no sequence, or the first of them is no `Task`.
    """
    tasks = env.tasks(split)
    who = f"{type(env).__name__}.tasks"
    if not isinstance(tasks, Sequence) or isinstance(tasks, str):
        raise EnvError(f"{who} returned {_kind(tasks)}: return a list (or LazyTasks) of Task(id, split).")
    if tasks and not isinstance(tasks[0], Task):
        raise EnvError(
            f"{who} returned {_kind(tasks[0])} in place of a task: return a list (or LazyTasks) of Task(id, split)."
        )
    if tasks and not isinstance(tasks[0].id, str):
        raise EnvError(f"{who} returned a Task with the id {tasks[0].id!r}: an id is a text, a str.")
    return tasks


def _kind(value: Any) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
