"""The command line: thin; it parses, calls and prints."""

import sys


def main() -> None:
    """Run the command line; errors that are meant for a user become one sentence and exit code 2."""
    from agent_gym.cli.app import app
    from agent_gym.errors import AgentGymError

    try:
        app()
    except AgentGymError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(2)
