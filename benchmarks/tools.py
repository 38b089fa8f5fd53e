"""Measures what a tool call costs beside the tool itself: checking, running, forking, and reading a call from text."""

import argparse
import statistics
import time
from collections.abc import Callable

from agent_gym.tools import SYNTAXES, Toolbox, ToolCall, get_syntax, tool

ROUNDS = 50
CALLS_PER_ROUND = 200


@tool
def search(query: str, limit: int = 5) -> str:
    """Search for pages.

    Args:
        query: What to look for.
        limit: How many.
    """
    return query


@tool(blocking=True)
def waiting(query: str) -> str:
    """Search for pages, in a thread.

    Args:
        query: What to look for.
    """
    return query


@tool
async def awaited(query: str) -> str:
    """Search for pages, on the event loop of the tools.

    Args:
        query: What to look for.
    """
    return query


def main() -> None:
    """Run every measurement and print one line for each: the median of its rounds in microseconds a call."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    box = Toolbox([search, waiting, awaited])
    box.setup()
    call = ToolCall("search", {"query": "Rome", "limit": "3"})
    report("call of a typed function", lambda: box.call(call), rounds)
    report("call with wrong arguments", lambda: box.call(ToolCall("search", {"limit": "x"})), rounds)
    report("call in a thread", lambda: box.call(ToolCall("waiting", {"query": "Rome"})), rounds)
    report("call of an async function", lambda: box.call(ToolCall("awaited", {"query": "Rome"})), rounds)
    report("fork of the toolbox", box.fork, rounds)
    for name in SYNTAXES:
        syntax = get_syntax(name)
        text = f"<think>I need to know more about this.</think>\n{syntax.write(call)}"
        report(f"reading a call, {name}", lambda syntax=syntax, text=text: syntax.parse(text, box), rounds)


def report(what: str, work: Callable[[], object], rounds: int) -> None:
    """Print the median and the best of a number of rounds."""
    work()
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(CALLS_PER_ROUND):
            work()
        found.append(1e6 * (time.perf_counter() - started) / CALLS_PER_ROUND)
    print(f"{what:32s} {statistics.median(found):8.1f} us (best {min(found):.1f})")


if __name__ == "__main__":
    main()
