"""Tools that end an episode."""

from agent_gym.tools.base import tool


@tool(final=True)
def answer(answer: str) -> str:
    """Give the final answer. This ends the task.

    Args:
        answer: The answer, as short as can be.
    """
    return answer


@tool(final=True)
def finish() -> str:
    """End the task, when all that was asked for is done."""
    return ""
