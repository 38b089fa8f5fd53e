"""The command line: thin; it parses, calls and prints."""

import os
import sys
from collections.abc import MutableMapping


def main() -> None:
    """Run the command line; errors that are meant for a user become one sentence and exit code 2.

    A run that was ended by a signal has the exit code that shells give it: 130 for Ctrl-C, 143 for SIGTERM.
    """
    _let_threads_sleep(os.environ)
    from agent_gym.cli.app import app
    from agent_gym.errors import AgentGymError, StoppedError

    try:
        app()
    except AgentGymError as error:
        if hasattr(error, "told_by"):
            sys.exit(2)  # Another process of the run has met it, and says so.
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(error.exit_code if isinstance(error, StoppedError) else 2)


def _let_threads_sleep(environment: MutableMapping[str, str]) -> None:
    """Have torch's threads spin for a moment only when they wait for each other; must come before torch is imported.

    By default they spin for milliseconds. Where another process needs a core, each one then waits for a thread that
    is not running: a training step took 428 ms instead of 95 beside one busy process, and 112 to 143 with this. Two
    trainings that share their cores still slow each other down manifold.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", "30000")
