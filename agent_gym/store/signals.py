"""What training made of each token of an episode: kept for the tokens that the model generated, and packed."""

import sqlite3
import zlib
from array import array
from collections.abc import Mapping, Sequence
from itertools import compress

from agent_gym.errors import StoreError

_LEVEL = 1
"""Of compression: advantages and weights repeat and shrink to a few bytes, whatever the effort."""


def pack(values: Sequence[float], mask: Sequence[int]) -> bytes:
    """Return the values (T,) at the tokens that the mask (T,) marks, as float32, packed."""
    return zlib.compress(array("f", compress(values, mask)).tobytes(), _LEVEL)


def unpack(data: bytes, mask: Sequence[int]) -> list[float]:
    """Return values (T,), 0 where the mask (T,) is 0."""
    numbers = array("f")
    numbers.frombytes(zlib.decompress(data))
    kept = iter(numbers)
    return [next(kept) if marked else 0.0 for marked in mask]


def insert(connection: sqlite3.Connection, step: int, signals: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Put the signals of episodes into the table.

    Raises:
        StoreError: An episode is not stored, or has another number of tokens.
    """
    rows = []
    for id, named in signals.items():
        mask = mask_of(connection, id)
        for name, values in named.items():
            if len(values) != len(mask):
                raise StoreError(
                    f"The signal {name!r} of episode {id!r} has {len(values)} values for {len(mask)} tokens: give one "
                    "a token, 0 where there is none."
                )
            rows.append((id, name, step, pack(values, mask)))
    connection.executemany("INSERT OR REPLACE INTO signals (id, name, step, data) VALUES (?, ?, ?, ?)", rows)


def read(connection: sqlite3.Connection, id: str) -> dict[str, list[float]]:
    """Return the signals of an episode by name, each (T,)."""
    rows = connection.execute("SELECT name, data FROM signals WHERE id = ? ORDER BY name", (id,)).fetchall()
    if not rows:
        return {}
    mask = mask_of(connection, id)
    return {name: unpack(data, mask) for name, data in rows}


def mask_of(connection: sqlite3.Connection, id: str) -> bytes:
    """Return the action mask of an episode.

    Raises:
        StoreError: It is not stored.
    """
    row = connection.execute("SELECT action_mask FROM trajectories WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise StoreError(f"The episode {id!r}, which signals were given for, is not stored: store it first.")
    return bytes(row[0])
