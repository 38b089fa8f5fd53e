"""What `agent-gym new` writes works: its tests pass, it is checked, linted and typed, and it never overwrites."""

import os
import shlex
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


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with environments and tools, of the shortest and the longest names among others."""
    folder = tmp_path_factory.mktemp("written")
    for kind, name in (
        ("env", "my_env"),
        ("tool", "my_tool"),
        ("tool", "b"),
        ("env", "an_environment_with_a_long_nam"),
        ("tool", "a_tool_that_has_so_long_a_name"),
    ):
        new(kind, name, folder)
        assert (folder / f"{name}.py").is_file() and (folder / f"test_{name}.py").is_file()
    return folder


def test_what_is_written_passes_its_own_tests(written: Path) -> None:
    assert "10 passed" in run(written, "pytest", "-q", "-p", "no:cacheprovider", ".")


def test_what_is_written_passes_the_linter(written: Path) -> None:
    for command in (["check"], ["format", "--check"]):
        run(written, "ruff", *command, "--no-cache", "--config", str(ROOT / "pyproject.toml"), ".")


def test_what_is_written_passes_the_type_checker(written: Path) -> None:
    # The project's configuration is strict; with its cache, only what was written is looked at.
    run(written, "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(CACHE), ".")


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


@pytest.mark.parametrize("name", ["My Env", "my-env", "1st", "", "class/../x", "_", "écho", "my_env\n"])
def test_a_name_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a module"):
        new("env", name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("class", "has a meaning"),
        ("print", "has a meaning"),
        ("tool", "has a meaning"),
        ("state", "has a meaning"),
        ("json", "would hide"),
        ("numpy", "would hide"),
        ("a" * 31, "longer than 30"),
    ],
)
def test_a_name_that_would_break_or_hide_something_is_refused(name: str, why: str, tmp_path: Path) -> None:
    for kind in ("env", "tool"):
        with pytest.raises(ConfigError, match=why):
            new(kind, name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["mine.py", "test_mine.py"])
def test_nothing_is_overwritten_nor_half_written(file: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text("precious")
    with pytest.raises(ConfigError, match=f"{file} is there already"):
        new("tool", "mine", tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(file, "precious")]
    with pytest.raises(ConfigError, match="There is no folder"):
        new("tool", "other", tmp_path / "nowhere")


def test_the_commands_to_type_are_whole_lines(tmp_path: Path) -> None:
    folder = tmp_path / "[bold]"
    folder.mkdir()
    name = "a_rather_long_name_for_a_tool_"
    told = new("tool", name, folder).splitlines()
    assert f"Written to {folder}. Next, there:" in told
    assert f"  agent-gym play math --option 'tools=[{name}.py:{name}]'" in told


def test_a_new_tool_is_given_to_an_environment_as_the_command_says(tmp_path: Path) -> None:
    told = new("tool", "backwards", tmp_path)
    (command,) = [shlex.split(line) for line in told.splitlines() if "agent-gym play" in line]
    done = subprocess.run(
        [sys.executable, "-c", "from agent_gym.cli import main; main()", *command[1:]],
        cwd=tmp_path,
        input='<tool_call>{"name": "backwards", "arguments": {"text": "abc"}}</tool_call>\n',
        capture_output=True,
        text=True,
        check=False,
    )
    assert "cba" in done.stdout, done.stdout + done.stderr
