"""Tools to serve; importing them prints, as careless modules do."""

import os
import subprocess
import sys
from pathlib import Path

from agent_gym.errors import SandboxError
from agent_gym.tools.base import Tool, tool

sys.stdout.write("importing tools\n")
os.write(1, b"and writing to the descriptor\n")


@tool
def lookup(word: str, times: int = 1) -> str:
    """Look a word up.

    Args:
        word: The word.
    """
    sys.stdout.write(f"looking {word}\n")
    subprocess.run(["echo", "from a child"], check=True)
    if word == "no":
        raise KeyError("no such word")
    return word[::-1] * times


@tool
def broken() -> str:
    """Fail as a sandbox fails."""
    raise SandboxError("the sandbox is gone")


class Gate(Tool):
    """Says how many are inside at once."""

    blocking = True

    def setup(self) -> None:
        self.inside = 0

    def run(self, bell: str, door: str) -> int:
        """Ring, and wait until the door is opened; both are named pipes."""
        self.inside += 1
        seen = self.inside
        Path(bell).write_text("x")
        with Path(door).open() as lines:
            lines.readline()
        self.inside -= 1
        return seen


class Counter(Tool):
    """Counts the calls of an episode."""

    def setup(self) -> None:
        self.count = 0

    def run(self, by: int = 1) -> int:
        """Count on."""
        self.count += by
        return self.count

    def close(self) -> None:
        if "CLOSED_FILE" in os.environ:
            Path(os.environ["CLOSED_FILE"]).write_text(f"{self.count}\n")
