"""A trajectories.sqlite as the first version wrote it: one wide table, without the column `branch_offset`."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from agent_gym.store.trajectories import TrajectoryStore
from agent_gym.trajectory import Trajectory


def write_old_database(path: Path, trajectories: Sequence[Trajectory], *, step: int = 1, phase: str = "train") -> None:
    """Write the file, in the same places as ours."""
    with TrajectoryStore(path) as store:
        store.add(trajectories, step=step, phase=phase)
    connection = sqlite3.connect(path)
    for table in ("search", "texts", "episodes", "signals"):
        connection.execute(f"DROP TABLE {table}")
    connection.execute("ALTER TABLE trajectories DROP COLUMN branch_offset")
    connection.execute("CREATE INDEX by_step ON trajectories (step, phase)")
    connection.execute("PRAGMA user_version = 0")
    connection.close()
