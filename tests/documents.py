"""Documents are run as they are written: what the tests of the README and of the how-tos share."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

SHORTER = [
    "warm_start.episodes=20",
    "rollout.tasks=1",
    "algorithm.options.group_size=2",
    "measure.tasks=2",
    "measure.every=0",
    "steps=1",
    "model.layers=1",
]
"""What makes a training command take seconds; everything else runs as written."""


def blocks(text: str, language: str) -> list[str]:
    """Return the blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(text: str) -> list[str]:
    """Return the commands of agent-gym in the blocks of bash."""
    lines = [line.split("  #")[0].strip() for block in blocks(text, "bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("agent-gym")]


def run(arguments: list[str], folder: Path, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a program in a folder."""
    return subprocess.run(
        arguments, cwd=folder, capture_output=True, text=True, check=False, env=environment, timeout=600
    )


def gym(line: str, folder: Path, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a command of agent-gym."""
    arguments = shlex.split(line)[1:]
    if arguments[0] == "train":
        # Assignments that the document itself makes come last, so that they win.
        arguments[1:1] = [part for assignment in SHORTER for part in ("--set", assignment)]
    return run([sys.executable, "-c", "from agent_gym.cli import main; main()", *arguments], folder, environment)
