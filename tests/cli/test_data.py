"""`agent-gym data` as a user meets it."""

import json
import lzma
import zipfile
from pathlib import Path

import pytest
from envs.data.loopback import serving
from typer.testing import CliRunner, Result

from agent_gym.cli.app import app
from agent_gym.envs.alfworld import data
from agent_gym.errors import ConfigError, GameError, UnknownIdError

GOLDEN = Path(__file__).parents[1] / "golden" / "alfworld" / "games.json.xz"


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AGENT_GYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("COLUMNS", "200")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["data", *arguments])


def archive(path: Path) -> Path:
    with lzma.open(GOLDEN, "rt") as file:
        entries = json.load(file)
    with zipfile.ZipFile(path, "w") as packed:
        for id_, entry in entries.items():
            grammar = f'"rhs": "Your task is to: {entry["task"]}."\naction PutObject {{ template :: "move {{o}}"; }}'
            problem, walkthrough = entry["problem"], entry["walkthrough"]
            content = {"grammar": grammar, "pddl_problem": problem, "walkthrough": walkthrough, "solvable": True}
            packed.writestr(f"json_2.1.1/{id_}/game.tw-pddl", json.dumps(content))
    return path


def test_get_from_a_file_says_what_is_there_now() -> None:
    result = run("get", "alfworld", "--version", "mine", "--from", str(GOLDEN))
    assert result.exit_code == 0, result.output
    assert "alfworld mine: " in result.output and "games (train " in result.output
    assert "digest of the games: " in result.output
    assert str(data.official_games("mine")) in result.output


def test_get_from_a_server_shows_how_far_it_is(tmp_path: Path) -> None:
    with serving(archive(tmp_path / "a.zip").read_bytes()) as site:
        result = run("get", "alfworld", "--version", "mine", "--url", site.url)
        assert result.exit_code == 0, result.output
        assert "downloading" in result.stderr and "MB of " in result.stderr
        assert "converting" in result.stderr
        again = run("get", "alfworld", "--version", "mine", "--url", site.url)
        assert again.stdout.startswith("already there; --force gets it again\nalfworld mine: ")
        assert len(site.asked) == 1


def test_list_shows_what_is_there(tmp_path: Path) -> None:
    assert "nothing is there; agent-gym data get alfworld gets" in run("list").output
    run("get", "alfworld", "--version", "mine", "--from", str(GOLDEN))
    output = run("list").output
    assert all(word in output for word in ("alfworld", "mine", "train ", " MB", "games.json.xz"))


def test_an_interruption_says_that_the_same_command_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "get_games", interrupt)
    result = run("get", "alfworld")
    assert result.exit_code == 130
    assert "the same command goes on from there" in result.stderr


def test_mistakes_are_errors_of_one_sentence(tmp_path: Path) -> None:
    for arguments, kind, words in (
        (["alfword"], UnknownIdError, "did you mean 'alfworld'"),
        (["alfworld", "--version", "9"], UnknownIdError, "Known: 2.1.1"),
        (["alfworld", "--from", "a", "--url", "b"], ConfigError, "exclude each other"),
        (["alfworld", "--from", str(tmp_path / "nothing")], GameError, "no game file or folder"),
    ):
        error = run("get", *arguments).exception
        assert isinstance(error, kind) and words in str(error)
