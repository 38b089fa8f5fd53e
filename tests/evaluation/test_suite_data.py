"""Files of a suite get to where it looks for them."""

import gzip
import json
from pathlib import Path

import pytest
from envs.data.loopback import serving
from typer.testing import CliRunner, Result

from agent_gym.cli.app import app
from agent_gym.envs.data import cache_folder
from agent_gym.errors import ConfigError, DataError, UnknownIdError
from agent_gym.evaluation.suite_data import get_data
from agent_gym.evaluation.suites import Suite, find_suite

ROWS = [{"question": f"What is {n} + {n}?", "answer": f"#### {2 * n}"} for n in range(3)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGENT_GYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["data", "get", *arguments])


def test_a_file_of_ones_own_is_taken_and_the_command_that_plays_it_is_told(folder: Path) -> None:
    suite = find_suite("math/gsm8k")
    assert suite.lacking() in ("agent-gym data get math/gsm8k", "pip install 'agent-gym[math]'")
    result = run("math/gsm8k", "--from", "rows.jsonl")
    assert result.exit_code == 0 and "agent-gym eval --suite math/gsm8k plays it" in result.output
    assert (cache_folder() / "suites/math/gsm8k.jsonl").read_text() == (folder / "rows.jsonl").read_text()
    assert "data get" not in suite.lacking()


def test_a_file_of_another_form_is_written_in_the_suites(folder: Path) -> None:
    (folder / "rows.json").write_text(json.dumps(ROWS))
    (path,) = get_data(find_suite("qa/bamboogle"), folder / "rows.json")
    assert [json.loads(line) for line in path.read_text().splitlines()] == ROWS
    (packed,) = get_data(find_suite("code/humaneval"), folder / "rows.json")
    assert len(gzip.decompress(packed.read_bytes()).splitlines()) == 3


def test_a_download_shows_how_far_it_is(folder: Path) -> None:
    with serving((folder / "rows.jsonl").read_bytes()) as site:
        result = run("math/gsm8k", "--url", site.url)
    assert result.exit_code == 0, result.output
    assert (cache_folder() / "suites/math/gsm8k.jsonl").is_file()


def test_several_files_come_from_a_folder(folder: Path) -> None:
    suite = find_suite("webshop/test")
    for name in suite.needs.files:
        (folder / Path(name).name).write_text("[]")
    assert [path.name for path in get_data(suite, folder)] == [Path(name).name for name in suite.needs.files]
    with pytest.raises(DataError, match=r"several files: give the folder that has items_shuffle\.json"):
        get_data(suite, folder / "rows.jsonl")


def test_what_cannot_be_had_says_why(folder: Path) -> None:
    with pytest.raises(DataError, match=r"not for download: agent-gym data get web/gaia --from FILE. GAIA is gated"):
        get_data(find_suite("web/gaia"), None)
    with serving(b"") as site, pytest.raises(DataError, match="Without internet: agent-gym data get math/gsm8k --from"):
        site.statuses.append(404)
        get_data(find_suite("math/gsm8k"), None, url=site.url)
    with pytest.raises(DataError, match=r"There is no file nothing\.jsonl"):
        get_data(find_suite("math/aime24"), Path("nothing.jsonl"))
    with pytest.raises(ConfigError, match="needs no data"):
        get_data(Suite(name="mine"), None)
    with pytest.raises(UnknownIdError, match="Unknown data 'math/gsm9k': did you mean 'math/gsm8k'"):
        CliRunner().invoke(app, ["data", "get", "math/gsm9k"], catch_exceptions=False)
