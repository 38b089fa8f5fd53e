"""Task ids that end in a number, and tasks that are seeds: the splits are disjoint ranges of them."""

import re
from collections.abc import Sequence
from typing import Final

SEEDS_A_SPLIT: Final = 1_000_000
"""The first split has the seeds from 0 on, the next those from here on, and so forth."""
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,17}")


def number_in(task_id: str, prefix: str) -> int | None:
    """Return the number in an id that is `prefix` and a number; None where it is not, or is written otherwise.

    "seed-7" has a number after "seed-"; "seed-07" and "seed-" have none.
    """
    digits = task_id.removeprefix(prefix)
    return int(digits) if task_id.startswith(prefix) and _NUMBER.fullmatch(digits) else None


def split_of_seed(seed: int | None, splits: Sequence[str], size: int = SEEDS_A_SPLIT) -> str | None:
    """Return the split that has a seed, where each has `size` of them; None where none has it."""
    if seed is None:
        return None
    number, index = divmod(seed, SEEDS_A_SPLIT)
    return splits[number] if number < len(splits) and index < size else None
