"""A trajectories.sqlite as the first version wrote it: one wide table, without the column `branch_offset`.

A turn names its fields there, and every token has its log-probability and its entropy.
"""

import json
import sqlite3
import struct
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from agent_gym.store.trajectories import TrajectoryStore
from agent_gym.trajectory import Trajectory


def write_old_database(path: Path, trajectories: Sequence[Trajectory], *, step: int = 1, phase: str = "train") -> None:
    """Write the file, in the same places as ours."""
    with TrajectoryStore(path) as store:
        store.add(trajectories, step=step, phase=phase)
    connection = sqlite3.connect(path)
    write_old_rows(connection, trajectories)
    for table in ("search", "texts", "episodes", "signals"):
        connection.execute(f"DROP TABLE {table}")
    connection.execute("ALTER TABLE trajectories DROP COLUMN branch_offset")
    connection.execute("CREATE INDEX by_step ON trajectories (step, phase)")
    connection.execute("PRAGMA user_version = 0")
    connection.close()


def write_old_rows(connection: sqlite3.Connection, trajectories: Sequence[Trajectory]) -> None:
    """Put what stands there of turns and tokens as earlier versions of every table did."""
    for each in trajectories:
        turns = json.dumps([asdict(turn) for turn in each.turns])
        numbers = [struct.pack(f"{len(values)}f", *values) for values in (each.logprobs, each.entropies)]
        values = (turns, *numbers, each.id)
        connection.execute("UPDATE trajectories SET turns = ?, logprobs = ?, entropies = ? WHERE id = ?", values)
    connection.commit()
