"""`agent-gym check` with manifests, as a user meets it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ECHO = '''
import copy
from agent_gym.env import State, Task, TextEnv


class Echo(TextEnv):
    """Say the word that it says."""

    def tasks(self, split):
        return [Task(word, split) for word in ("apple", "bread", "chair")]

    def _start(self, task, rng):
        return f"say {task.id}", self._state()

    def _act(self, action):
        right = action == self.task.id
        return "well said", self._state(reward=float(right), terminated=True, success=right, score=float(right))

    def _copy(self):
        return copy.copy(self)

    def expert(self):
        return iter([self.task.id])

    def _state(self, **values):
        word = self.task.id
        return State(goal=f"say {word}", admissible=lambda: [word, "nothing"], **values)


class Other(Echo):
    """Another environment of the same file."""
'''

Gym = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def gym(tmp_path: Path) -> Gym:
    """Run agent-gym in a folder that has echo.py."""
    (tmp_path / "echo.py").write_text(ECHO)
    environment = {**os.environ, "COLUMNS": "300", "OMP_NUM_THREADS": "1"}

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", "from agent_gym.cli import main; main()", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment, timeout=300
        )

    return run


def test_what_is_recorded_is_checked_and_a_change_is_found(gym: Gym, tmp_path: Path) -> None:
    before = gym("check", "echo.py:Echo")
    assert before.returncode == 0 and "it has no manifest; --record echo.manifest.json makes one" in before.stdout

    recorded = gym("check", "echo.py:Echo", "--option", "max_turns=4", "--record", "echo.manifest.json")
    assert recorded.returncode == 0, recorded.stdout + recorded.stderr
    assert (
        recorded.stdout.endswith("recorded 3 episodes in echo.manifest.json\n") and "manifest │" not in recorded.stdout
    )
    assert [path.name for path in tmp_path.iterdir() if "manifest" in path.name] == ["echo.manifest.json"]

    named = gym("check", f"{tmp_path}/echo.py:Echo", "--only", "manifest", "--manifest", "echo.manifest.json")
    assert named.returncode == 0
    assert "3 episodes of 3 turns are as recorded; same versions and data" in named.stdout

    (tmp_path / "echo.py").write_text(ECHO.replace("well said", "thank you"))
    path = tmp_path / "echo.manifest.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps({**written, "versions": {**written["versions"], "agent-gym": "0.0.1"}}))
    changed = gym("check", "echo.py:Echo", "--only", "manifest")
    assert changed.returncode == 1
    assert (
        "task 'apple' (max_turns=4), turn 1: the observation has 'thank you' instead of 'well said' (character 0); "
        "recorded with agent-gym 0.0.1, here 0."
    ) in changed.stdout

    renewed = gym("check", "echo.py:Echo", "--record", "echo.manifest.json")
    assert renewed.returncode == 0, "an intended change is recorded although it differs from before"
    again = json.loads(path.read_text())
    assert [recording["options"] for recording in again["recordings"]] == [{"max_turns": 4}]
    assert "thank you" in path.read_text() and again["versions"] == written["versions"]


def test_nothing_is_recorded_where_a_check_fails(gym: Gym, tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(ECHO.replace("return iter([self.task.id])", 'return iter(["nothing"])'))
    result = gym("check", "echo.py:Echo", "--record", "echo.manifest.json")
    assert result.returncode == 1 and "nothing is recorded" in result.stdout
    assert not (tmp_path / "echo.manifest.json").exists()


def test_the_manifest_of_alfworld_is_in_the_table(gym: Gym) -> None:
    result = gym("check", "alfworld", "--only", "manifest")
    assert result.returncode == 0 and "8 episodes of 49 turns are as recorded" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--manifest", "none.json"], "There is no manifest none.json: record one with --record none.json."),
        (["--manifest", "half.json"], "half.json cannot be read as a manifest"),
        (["--manifest", "other.json"], "other.json is of 'echo.py:Other', not of 'echo.py:Echo'"),
        (["--record", "half.json"], "half.json cannot be read as a manifest"),
        (["--record", "other.json"], "other.json is of 'echo.py:Other', not of 'echo.py:Echo'"),
        (["--record", "no/such/m.json"], "there is no folder no/such"),
        (["--record", "new.json", "--manifest", "other.json"], "--manifest compares and --record writes"),
    ],
)
def test_a_file_that_does_not_fit_is_one_sentence_with_exit_code_2(
    gym: Gym, tmp_path: Path, arguments: list[str], words: str
) -> None:
    manifest = {"format": 1, "env": "echo.py:Other", "versions": {}, "data": {}, "recordings": []}
    (tmp_path / "other.json").write_text(json.dumps(manifest))
    (tmp_path / "half.json").write_text(json.dumps(manifest)[:30])
    before = {path: path.read_bytes() for path in tmp_path.glob("*.json")}
    result = gym("check", "echo.py:Echo", *arguments)
    assert result.returncode == 2, result.stdout + result.stderr
    assert words in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.glob("*.json")} == before
