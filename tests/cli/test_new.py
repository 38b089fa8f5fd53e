"""What `agent-gym new` writes works: its tests pass, it is checked, linted and typed, and it never overwrites."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent_gym.cli.app import app
from agent_gym.errors import ConfigError

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".mypy_cache"


def new(kind: str, name: str, folder: Path) -> str:
    result = CliRunner().invoke(app, ["new", kind, name, "--folder", str(folder)])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def run(folder: Path, *command: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("kind", "name"), [("env", "my_env"), ("tool", "my_tool")])
def test_what_is_written_passes_its_tests_the_linter_and_the_type_checker(kind: str, name: str, tmp_path: Path) -> None:
    new(kind, name, tmp_path)
    assert " passed" in run(tmp_path, "pytest", "-q", "-p", "no:cacheprovider", f"test_{name}.py")
    run(tmp_path, "ruff", "check", "--config", str(ROOT / "pyproject.toml"), f"{name}.py")
    run(tmp_path, "ruff", "format", "--check", "--config", str(ROOT / "pyproject.toml"), ".")
    run(tmp_path, "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(CACHE), f"{name}.py")


def test_the_environment_passes_the_checks_that_it_is_told_to_run(tmp_path: Path) -> None:
    told = new("env", "my_env", tmp_path)
    assert "agent-gym check my_env.py:MyEnv" in told
    main = "from agent_gym.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", main, "check", "my_env.py:MyEnv"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_tool_can_be_given_to_any_environment(tmp_path: Path) -> None:
    import agent_gym

    told = new("tool", "shout_back", tmp_path)
    assert "agent-gym serve-tools shout_back.py:shout_back" in told
    reference = f"{tmp_path / 'shout_back.py'}:shout_back"
    env = agent_gym.make("alfworld", size="tiny", wrappers=[{"id": "tools", "tools": [reference]}])
    env.reset(seed=0)
    call = '<tool_call>\n{"name": "shout_back", "arguments": {"text": "abc"}}\n</tool_call>'
    assert "cba" in env.step(call)[0]


@pytest.mark.parametrize("name", ["My Env", "my-env", "1st", "", "class/../x"])
def test_a_name_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a module"):
        new("env", name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("precious")
    with pytest.raises(ConfigError, match="is there already"):
        new("tool", "mine", tmp_path)
    assert (tmp_path / "mine.py").read_text() == "precious"
    with pytest.raises(ConfigError, match="There is no folder"):
        new("tool", "other", tmp_path / "nowhere")
