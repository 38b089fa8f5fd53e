from pathlib import Path

import exchange_runs
import pytest


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of `exchange_runs.episodes`."""
    return exchange_runs.make_run(tmp_path / "first", exchange_runs.episodes())
