"""The household tasks that both sides of `trl.py` play: one tool, called as Qwen3 calls tools.

TRL's loop finds the calls and runs the tool; our environment reads the very same text itself. What the model is shown,
and what it has to write, is the same token for token; `trl.py` checks that.
"""

import json
import random
import re

from agent_gym.env import State, Task
from agent_gym.envs.alfworld import AlfworldEnv

ENDED = "The episode has ended."
FAREWELL = "Done."
"""What a demonstrator says then; TRL generates until no tool is called any more."""
NOVELTY = 0.01
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)

TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{}\n</tools>\n\n"
    "For each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n"
    '<tool_call>\n{{"name": <function-name>, "arguments": <args-json-object>}}\n</tool_call>'
)
"""What Qwen3's chat template says about tools, word for word."""


def written(action: str) -> str:
    """Return the call of the tool that does an action."""
    return f"<tool_call>\n{json.dumps({'name': 'act', 'arguments': {'action': action}})}\n</tool_call>"


def read(generated: str) -> str:
    """Return the action that a generation asks for; empty where it calls no tool, or in a way that cannot be read."""
    found = _CALL.search(generated)
    try:
        call = json.loads(found[1]) if found else {}
        action = call["arguments"]["action"] if call.get("name") == "act" else ""
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return action if isinstance(action, str) else ""


class CuriousAlfworld(AlfworldEnv):
    """ALFWorld with a small reward for whatever is seen for the first time.

    Else most groups of an agent as weak as this one would be all failures, and learning from them cost one side nothing
    (ours leaves such rows out) and the other one as much as ever.
    """

    def _start(self, task: Task, rng: random.Random) -> tuple[str, State]:
        observation, state = super()._start(task, rng)
        self._seen = {observation}
        return observation, state

    def _act(self, action: str) -> tuple[str, State]:
        observation, state = super()._act(action)
        state.reward += NOVELTY * (observation not in self._seen)
        self._seen.add(observation)
        return observation, state


class CalledAlfworld(CuriousAlfworld):
    """The same for our side: an action is what the model wrote, the call of the tool included."""

    def _act(self, action: str) -> tuple[str, State]:
        return super()._act(read(action))


class Household:
    """The same for TRL: an instance plays an episode at a time, and its public methods are the tools.

    Args:
        turns: The episode ends after so many.
    """

    tasks: tuple[str, ...] = ()
    """The tasks of the step, one a group."""

    def __init__(self, turns: int) -> None:
        self._env = CuriousAlfworld(max_turns=turns)
        self._reward, self._success = 0.0, False
        self._ended = True
        self._turns = 0

    def reset(self, slot: int, **_: object) -> str:
        """Begin the task of a group; returns what is seen."""
        observation, _info = self._env.reset(seed=0, options={"task": self.tasks[slot]})
        self._reward, self._success, self._ended, self._turns = 0.0, False, False, 0
        return observation

    def get_reward(self) -> float:
        """Return the sum of the environment's rewards."""
        return self._reward

    def act(self, action: str) -> str:
        """Act in the house.

        Args:
            action: What to do, such as "go to cabinet 1" or "open drawer 2".

        Returns:
            What happens.
        """
        if self._ended:
            raise ValueError(ENDED)
        observation, reward, terminated, truncated, info = self._env.step(action)
        self._reward, self._success = self._reward + reward, bool(info["success"])
        self._turns += 1
        self._ended = terminated or truncated
        return f"{observation}\n{ENDED}" if self._ended else observation
