"""Inside: runs a program that nobody trusts and calls its function; prints what it gave, a line for each call.

It is not told what the right results are. That the lines bear a word that was drawn for this run only tells them from
what the program prints itself; a program that finds out the word gains nothing, because a line says no more than what
the function gave.
"""

import json
import os
import sys
from typing import Any

from agent_gym.envs.code.inside.plain import NotPlainError, dump, load


def run_calls(request: dict[str, Any]) -> None:
    """Load the program and make the calls.

    Args:
        request: "program", "function", "calls" (each a line of `dump`: positional and keyword arguments) and "word".
    """
    channel = os.dup(1)

    def say(**line: Any) -> None:
        sys.stdout.flush()
        os.write(channel, f"\n{request['word']}{json.dumps(line)}\n".encode())

    namespace: dict[str, Any] = {"__name__": "program"}
    try:
        exec(compile(request["program"], "program.py", "exec"), namespace)
        function = namespace[request["function"]]
    except BaseException as error:  # noqa: BLE001 - whatever the program does
        say(load=f"{type(error).__name__}: {str(error)[:200]}")
        return
    for number, call in enumerate(request["calls"]):
        try:
            arguments, keywords = load(call)
            value = dump(function(*arguments, **keywords))
        except NotPlainError as error:
            say(call=number, error="NotPlainError", message=str(error)[:200])
        except BaseException as error:  # noqa: BLE001 - whatever the program does
            say(call=number, error=type(error).__name__, message=str(error)[:200])
        else:
            say(call=number, value=value)
    say(done=True)


def main() -> None:
    """Take the request from standard input; end without waiting for what the program has left running."""
    run_calls(json.loads(sys.stdin.buffer.read()))
    sys.stdout.flush()
    os._exit(0)
