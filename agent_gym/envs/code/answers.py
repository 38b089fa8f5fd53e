"""From an agent's answer to the program that is judged."""

import re
from typing import Final

from agent_gym.envs.code.tasks import CodeTask

_FENCE: Final = "```"


def fenced_blocks(text: str) -> list[str]:
    """Return what stands in the fenced blocks of a text; one that is not closed is none."""
    blocks: list[str] = []
    lines: list[str] | None = None
    for line in text.split("\n"):
        mark = line.strip()
        if lines is None:
            if mark.startswith(_FENCE) and "`" not in mark[len(_FENCE) :]:
                lines = []
        elif mark == _FENCE:
            blocks.append("".join(f"{each}\n" for each in lines))
            lines = None
        else:
            lines.append(line)
    return blocks


def program_in(answer: str, function: str) -> str:
    """Return the program in an answer: its last fenced block that defines the function, else its last, else all of it.

    Args:
        answer: What the agent answered.
        function: What the function is called.
    """
    blocks = fenced_blocks(answer)
    if not blocks:
        return answer
    defining = [block for block in blocks if _defines(block, function)]
    return str((defining or blocks)[-1])


def complete(program: str, task: CodeTask) -> str:
    """Return the program with what stands before its function in the task; or the task's prompt, gone on with."""
    if not task.prompt:
        return program
    if _defines(program, task.function):
        return f"{task.preamble}\n{program}"
    return task.prompt + program


def _defines(program: str, function: str) -> bool:
    return re.search(rf"^(?:async )?def {re.escape(function)}\b|^{re.escape(function)} *=", program, re.M) is not None
