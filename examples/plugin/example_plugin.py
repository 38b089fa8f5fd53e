"""A package that brings an environment and a tool; `pip install` makes both known by name."""

import agent_gym
from agent_gym.tools import register_tool


class Echo(agent_gym.TextEnv):
    """Says a word; the action that repeats it solves the task."""

    def tasks(self, split):
        """Return the tasks of a split."""
        return [agent_gym.Task(word, split) for word in ("apple", "lamp", "mug")]

    def _start(self, task, rng):
        self._word = task.id
        return f"Say {self._word}.", agent_gym.State(goal="repeat the word")

    def _act(self, action):
        solved = action == self._word
        return "Right." if solved else "No.", agent_gym.State(
            goal="repeat the word", reward=float(solved), terminated=solved, success=solved, invalid_action=not solved
        )


@agent_gym.tool
def backwards(text: str) -> str:
    """Say a text backwards.

    Args:
        text: What to say.
    """
    return text[::-1]


def register():
    """Make the environment and the tool known."""
    agent_gym.register("echo", "example_plugin:Echo", description="repeat a word")
    register_tool("backwards", "example_plugin:backwards")
