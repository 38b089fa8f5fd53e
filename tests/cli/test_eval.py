"""`agent-gym eval`, `suites` and `rescore` as a user meets them."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agent_gym.cli.app import app
from agent_gym.cli.evaluating import higher, time_left
from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.evaluation.budgets import UsedUp

OWN = """
name: kitchen
description: three small households
env: {id: alfworld, options: {size: tiny, max_turns: 20}}
split: valid_unseen
tasks: 3
references: [{model: nobody, value: 12.5, source: a table}]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENT_GYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "kitchen.yaml").write_text(OWN)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_the_list_says_what_is_at_hand_and_what_gets_the_rest() -> None:
    lines = run("suites").output.splitlines()
    (tiny,) = [line.split() for line in lines if line.startswith("alfworld/generated_tiny")]
    (unseen,) = [line.split() for line in lines if line.startswith("alfworld/valid_unseen")]
    assert tiny[1:4] == ["200", "success", "yes"] and unseen[1:4] == ["134", "success", "no"]
    assert "  agent-gym data get alfworld" in lines
    assert any("scienceworld/boil and 29 more" in line for line in lines) and len(lines) < 70


def test_one_suite_is_described_with_what_was_published_and_what_must_be_chosen() -> None:
    told = run("suites", "web/gaia").output
    assert "47.6 pass@1" in told and "AEPO" in told and "--set env.options.corpus=..." in told and "gated" in told
    assert "published: 12.5 success %, nobody: a table" in run("suites", "kitchen.yaml").output


def test_a_suite_is_played_with_lines_of_progress_and_a_table(folder: Path) -> None:
    told = run("eval", "--suite", "kitchen.yaml", "--model", "expert", "--n", "2", "--name", "a").output
    assert "kitchen: 6 episodes\n" in told and "6/6  success 1.00  0:00:00 left" in told
    assert "expert on kitchen" in told and "pass@1" in told and "pass@2" in told and "by type of task" in told
    assert "published: 12.5 success %" in told and "run folder: runs/a" in told
    with pytest.raises(ConfigError, match="There is a run runs/a: add --resume"):
        run("eval", "--name", "a")
    again = run("eval", "--name", "a", "--resume").output
    assert "6 episodes" not in again and "expert on kitchen" in again


def test_a_run_gets_a_name_of_its_own_and_is_kept(folder: Path) -> None:
    for _ in range(2):
        run("eval", "--suite", "kitchen.yaml", "--model", "random", "--tasks", "1")
    assert sorted(path.name for path in (folder / "runs").iterdir()) == ["eval-kitchen-1", "eval-kitchen-2"]


def test_several_suites_end_with_a_table_of_all(folder: Path) -> None:
    (folder / "other.yaml").write_text(OWN.replace("kitchen", "other"))
    told = run("eval", "--suite", "kitchen.yaml,other.yaml", "--model", "expert", "--name", "a").output
    assert "all suites" in told and "expert on other" in told


def test_a_limit_says_how_far_it_came_and_how_to_go_on() -> None:
    told = run("eval", "--suite", "kitchen.yaml", "--model", "expert", "--name", "a", "--max-tokens-total", "10").output
    assert "stopped by" in told and "1 of 3 episodes; go on, with a higher limit, with" in told
    # The limit is the run's: without the flag it would stop at once again.
    (command,) = re.findall(r"with agent-gym (eval --name a --resume --max-tokens-total \d+)\n", told)
    assert "2/3" in run(*command.split()).output


@pytest.mark.parametrize(
    ("reached", "flag"),
    [
        (UsedUp("seconds", "60 seconds", 120.0), " --max-seconds 120"),
        (UsedUp("cost", "1.20 of 1.00 dollars", 2.4000000000001), " --max-cost 2.4"),
        (UsedUp("tokens", "5,000,000 of 1 tokens", 10_000_000), " --max-tokens-total 10000000"),
    ],
)
def test_the_flag_of_a_limit_is_given_with_more(reached: UsedUp, flag: str) -> None:
    assert higher(reached) == (", with a higher limit,", flag)


def test_what_is_missing_or_does_not_go_together_is_named() -> None:
    with pytest.raises(ConfigError, match="add --name"):
        run("eval", "--suite", "kitchen.yaml", "--model", "expert", "--resume")
    with pytest.raises(ConfigError, match="No model was given"):
        run("eval", "--suite", "kitchen.yaml")
    with pytest.raises(ConfigError, match="There is no run runs/b"):
        run("eval", "--name", "b", "--model", "expert", "--retry-failed")
    with pytest.raises(ConfigError, match="There is no run runs/b to go on with: check --name"):
        run("eval", "--name", "b", "--resume")
    with pytest.raises(ConfigError, match=r"as in 0.15,0.6; it was given '1'"):
        run("eval", "--suite", "kitchen.yaml", "--model", "http://localhost:1/v1", "--price", "1")
    with pytest.raises(ConfigError, match="leave out --env and --split, or --suite"):
        run("eval", "--suite", "kitchen.yaml", "--split", "train", "--model", "expert")


def test_where_every_episode_failed_the_exit_code_tells(folder: Path) -> None:
    (folder / "broken.py").write_text(
        "from agent_gym import Task, TextEnv\n\n\nclass Broken(TextEnv):\n"
        "    def tasks(self, split):\n        return [Task('a', split)]\n\n"
        "    def _start(self, task, rng):\n        raise RuntimeError('no \\ud83d table')\n\n"
        "    def _act(self, action):\n        raise RuntimeError\n"
    )
    result = run("eval", "--env", "broken.py:Broken", "--model", "random", "--name", "a")
    assert result.exit_code == 1 and r"1 failed: RuntimeError: no \ud83d table" in result.output
    assert "played again: agent-gym eval --name a --retry-failed" in result.output


def test_rescoring_says_what_changed(folder: Path) -> None:
    (folder / "judge.py").write_text("def no(episode):\n    return False\n")
    run("eval", "--suite", "kitchen.yaml", "--model", "expert", "--name", "a")
    told = run("rescore", "runs/a", "--grader", "judge.py:no").output
    assert "3 episodes graded, 3 differ: 0 solved now, 3 no longer" in told
    assert "kitchen/0/0: solved (1.000) -> not solved (0.000)" in told
    assert "3 solved now" in run("rescore", "runs/a", "--grader", "environment").output
    assert "│ reward" in run("rescore", "runs/a", "--metric", "reward").output
    with pytest.raises(UnknownIdError, match="Unknown metric 'sucess': did you mean 'success'"):
        run("rescore", "runs/a", "--metric", "sucess")


@pytest.mark.parametrize(
    ("seconds", "ended", "left", "in_flight", "expected"),
    [
        (10, 1, 9, 1, 90.0),  # one after the other
        (10, 1, 239, 64, pytest.approx(64, rel=0.1)),  # the first of 64 to end is not alone in having got anywhere
        (100, 640, 1000, 64, pytest.approx(144, rel=0.01)),
        (100, 640, 0, 64, 0.0),
    ],
)
def test_the_time_left_counts_what_is_in_flight(
    seconds: float, ended: int, left: int, in_flight: int, expected: float
) -> None:
    assert time_left(seconds, ended, left, in_flight) == expected


@pytest.mark.parametrize("given", [",", " ", ""])
def test_a_suite_without_a_name_is_no_evaluation_of_something_else(given: str) -> None:
    with pytest.raises(ConfigError, match="names no suite"):
        run("eval", "--suite", given, "--model", "expert")
    assert not Path("runs").exists()


def test_a_run_that_is_graded_again_from_elsewhere_keeps_what_its_suite_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "kitchen.yaml").write_text(OWN + "metric: score\n")
    run("eval", "--suite", "kitchen.yaml", "--model", "expert", "--name", "a")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    told = run("rescore", "../runs/a").output
    assert "score" in told.partition("on kitchen")[2] and "published: 12.5 success %" in told


def test_nothing_published_stands_beside_a_part_of_a_suite(folder: Path) -> None:
    told = run("eval", "--suite", "kitchen.yaml", "--model", "expert", "--tasks", "2", "--name", "a").output
    assert "published:" not in told and "no published scores stand here: played with tasks=2 of 3" in told


def test_where_nothing_has_failed_trying_again_says_so() -> None:
    run("eval", "--suite", "kitchen.yaml", "--model", "expert", "--name", "a")
    assert "no episode had failed: none was played again" in run("eval", "--name", "a", "--retry-failed").output
