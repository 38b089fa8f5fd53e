"""One process writes to a run at a time, and the system forgets it with its end."""

import subprocess
import sys
from pathlib import Path

import pytest

from agent_gym.errors import StoreError
from agent_gym.store.holding import held, holder

HOLDS = """
import sys
from pathlib import Path
from agent_gym.store.holding import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_another_process_is_kept_out_until_the_first_has_died(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout and other.stdout.readline() == "held\n"
        assert holder(tmp_path) == other.pid
        with pytest.raises(StoreError, match=f"Process {other.pid} is writing to the run .*: wait until it has ended"):
            held(tmp_path).__enter__()
        other.kill()
    assert holder(tmp_path) is None
    with held(tmp_path):
        pass
    assert holder(tmp_path) is None


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written"), held(tmp_path / "missing"):
        pass
