"""The README as written: each command is run, each piece of Python too."""

import importlib.util
import os
import re
from pathlib import Path

import documents
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
OFFICIAL_GAMES = ROOT.parent / "shared" / "data" / "alfworld_games.json.xz"


def commands() -> list[str]:
    found = documents.commands(README) + re.findall(r"`(agent-gym [^`]+)`", README)
    # A viewer that serves does not end; tests/viewer run it.
    return [line for line in found if not line.startswith("agent-gym view ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readme")
    (path / "examples").symlink_to(ROOT / "examples")
    echo = next(block for block in documents.blocks(README, "python") if "class Echo" in block)
    (path / "echo.py").write_text(echo)
    return path


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "AGENT_GYM_CACHE": str(folder / "cache")}


def test_there_are_commands_for_each_of_the_three_uses() -> None:
    assert {line.split()[1] for line in commands()} >= {"train", "eval", "play", "show"}


@pytest.mark.parametrize("line", commands())
def test_the_command_runs_as_written(line: str, folder: Path) -> None:
    if "alfworld" in line and any(word in line for word in ("data get", "games=official", "alfworld/valid")):
        if not OFFICIAL_GAMES.is_file():
            pytest.skip(f"no official games in {OFFICIAL_GAMES.parent}, and none are downloaded")
        line += f" --from {OFFICIAL_GAMES}" if "data get" in line else ""
    wanted = re.search(r"--env (scienceworld|textworld)", line)
    if wanted and importlib.util.find_spec(wanted[1]) is None:
        pytest.skip(f"the extra {wanted[1]} is not installed (make extras)")
    result = documents.gym(line, folder, environment(folder))
    if "Qwen/" in line:
        # Weights come from the internet; here it must get as far as asking for them.
        assert result.returncode in (0, 2), result.stderr
        assert result.returncode == 0 or "cannot be loaded" in result.stderr
    else:
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("code", documents.blocks(README, "python"), ids=lambda code: code.strip().splitlines()[0])
def test_the_python_runs_as_written(code: str, folder: Path) -> None:
    result = documents.run_blocks([code], folder, environment(folder))
    assert result.returncode == 0, result.stderr


def test_every_link_into_the_repository_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
    assert missing == []


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "make demo" in README and "make test" in README
    assert re.search(r"^demo: setup", makefile, re.MULTILINE)
    assert re.search(r"^test: setup", makefile, re.MULTILINE)
