"""One JSON object a line."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from agent_gym.errors import DataError
from agent_gym.evaluation.exchange.checking import checked
from agent_gym.evaluation.exchange.reading import Stored
from agent_gym.evaluation.exchange.records import encoded, from_record

LONGEST_LINE: Final = 128 * 2**20
"""Bytes of an episode that is read, at most."""


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> int:
    """Write records a line each; return how many there were."""
    count = 0
    with path.open("wb") as file:
        for record in records:
            file.write(encoded(record) + b"\n")
            count += 1
    return count


def read_jsonl(path: Path, *, longest: int = LONGEST_LINE) -> Iterator[Stored]:
    """Yield the episodes of a file.

    Args:
        path: The file.
        longest: Bytes of a line, at most.

    Raises:
        DataError: A line is no episode, or too long; the sentence names it.
    """
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(longest + 1), b""), 1):
            if len(line) > longest:
                size = longest // 2**20
                raise DataError(f"{path}, line {number}: it is longer than {size} MiB: allow more with --max-mib.")
            if line.isspace():
                continue
            try:
                yield checked(from_record(json.loads(line)))
            except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
                raise DataError(f"{path}, line {number}: this is not an episode in JSON ({error}).") from error
            except DataError as error:
                raise DataError(f"{path}, line {number}: this is not an episode: {error}.") from error
