"""Folders of weights: whose they are, and what becomes of those whose owner was killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent_gym.engines.weight_folders import WeightFolder, sweep
from agent_gym.errors import EngineError

OWNER = """
import sys, time
from pathlib import Path
from agent_gym.engines.weight_folders import WeightFolder
folder = WeightFolder(Path(sys.argv[1]))
(folder.path / "weights").write_text("big")
print(folder.path, flush=True)
time.sleep(60)
"""


def aged(path: Path) -> None:
    """Let a folder be an hour old."""
    os.utime(path, (time.time() - 3600,) * 2)


def test_what_a_killed_trainer_leaves_is_removed_by_the_next_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        aged(path)
        sweep(tmp_path)
        assert (path / "weights").is_file()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()
    sweep(tmp_path)
    assert not path.exists()


def test_a_new_folder_and_those_of_other_machines_are_left_alone(tmp_path: Path) -> None:
    far = tmp_path / "agent-gym-weights-another.machine-x1"
    far.mkdir()
    aged(far)
    young = WeightFolder(tmp_path)
    os.close(young._lock or 0)
    young._lock = None
    sweep(tmp_path)
    assert far.is_dir() and young.path.is_dir()
    young.remove()
    young.remove()
    assert not young.path.exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match=r"cannot be written to .*file/inside"):
        WeightFolder(tmp_path / "file" / "inside")
