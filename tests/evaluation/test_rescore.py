"""Stored episodes are graded again, without the model."""

from pathlib import Path
from typing import Any

import pytest
from evaluation import guessing

from agent_gym.cli.listing_runs import describe
from agent_gym.config import EvalConfig
from agent_gym.config_files import build
from agent_gym.envs.math import MathEnv
from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.evaluation.rescore import rescore
from agent_gym.evaluation.runner import evaluate
from agent_gym.rollout.episode import note
from agent_gym.store.run import RunFolder
from agent_gym.trajectory import Trajectory, Turn

JUDGES = """
def short(episode):
    return len(episode.turns) < 2

def half(episode):
    return 0.5 if episode.metadata.get("answer") else None

def wild(episode):
    return 3

def wordy(episode):
    return "good" if episode.id.endswith("5/0") else 0.5

def forgetful(episode):
    return 0.5 if not episode.id.endswith("5/0") else episode.metadata["nothing"]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judges.py").write_text(JUDGES)
    return tmp_path


def played(**values: Any) -> RunFolder:
    evaluate(build(EvalConfig, values), "run")
    return RunFolder.open(Path("run"))


def guesses() -> RunFolder:
    return played(env={"id": f"{guessing.__file__}:Guess"}, model="random", split="test", tasks=6)


def test_ones_own_judge_writes_new_verdicts_and_the_old_ones_are_kept() -> None:
    run = guesses()
    with run.trajectories() as store:
        before = {each.id: each for each in store.select()}
    changes = list(rescore(run, "judges.py:half"))
    assert len(changes) == 6 and all(change.differs and change.after == (False, 0.5) for change in changes)
    with run.trajectories() as store:
        after = {each.id: each for each in store.select()}
        assert store.count() == 6
    for id, one in after.items():
        assert (one.success, one.score, one.reward) == (False, 0.5, before[id].reward)
        assert one.metadata["success_before"] == str(before[id].success)
        assert float(one.metadata["score_before"]) == before[id].score
        assert one.metadata["graded_by"] == "judges.py:half"


def test_the_first_verdict_is_the_one_that_is_kept_and_the_same_judge_changes_nothing() -> None:
    run = guesses()
    first = {change.id: change.before for change in rescore(run, "judges.py:half")}
    assert not any(change.differs for change in rescore(run, "judges.py:half"))
    list(rescore(run, "judges.py:short"))
    with run.trajectories() as store:
        assert {each.id: each.metadata["score_before"] for each in store.select()} == {
            id: repr(score) for id, (_, score) in first.items()
        }


def test_the_environment_plays_the_stored_actions_where_it_grades_no_answers() -> None:
    run = guesses()
    assert not any(change.differs for change in rescore(run, "environment"))
    damaged = {change.id: change.before for change in rescore(run, "judges.py:half")}
    again = {change.id: change.after for change in rescore(run, "environment")}
    assert {id: success for id, (success, _) in again.items()} == {id: success for id, (success, _) in damaged.items()}


def test_the_environment_grades_stored_answers_without_its_tools() -> None:
    run = played(env={"id": "math"}, model="expert", split="test", tasks=4)
    changes = list(rescore(run, "environment"))
    assert [change.differs for change in changes] == [False] * 4
    with run.trajectories() as store:
        one = next(iter(store.select()))
        assert one.metadata["answer"] != "certainly not" and "answer_written" not in one.metadata
        # What counts as a vote may be another form of it.
        one.metadata["answer_written"] = "certainly not"
        store.add([one], step=0, phase="eval")
    changed = [change for change in rescore(run, "environment") if change.differs]
    assert [(change.id, change.before[0], change.after[0]) for change in changed] == [(one.id, True, False)]


def test_failed_episodes_stay_failed() -> None:
    Path(guessing.BROKEN).write_text("test 5")
    run = guesses()
    assert len(list(rescore(run, "judges.py:half"))) == 5


def test_what_is_no_grade_or_no_function_is_named() -> None:
    run = guesses()
    with pytest.raises(ConfigError, match="gave 3 for eval/0/0: a grade is a number from 0 to 1"):
        list(rescore(run, "judges.py:wild"))
    with pytest.raises(UnknownIdError, match="grader"):
        list(rescore(run, "judges.py:nobody"))


@pytest.mark.parametrize(
    ("name", "said"), [("wordy", "wordy gave 'good' for eval/5/0"), ("forgetful", "eval/5/0 .KeyError: 'nothing'.")]
)
def test_a_judge_that_fails_is_named_with_the_episode_and_leaves_the_run_as_it_was(name: str, said: str) -> None:
    run = guesses()
    before = [(each.success, each.score, each.metadata) for each in run.trajectories().select()]
    with pytest.raises(ConfigError, match=said):
        list(rescore(run, f"judges.py:{name}"))
    assert [(each.success, each.score, each.metadata) for each in run.trajectories().select()] == before
    assert len(run.metrics()) == 1


def test_the_metrics_get_the_new_score_which_is_the_one_that_is_listed() -> None:
    run = guesses()
    list(rescore(run, "environment"))
    assert len(run.metrics()) == 1
    list(rescore(run, "judges.py:half"))
    first, last = run.metrics()
    assert last["successes"] == 0 != first["successes"] and last.keys() == first.keys()
    assert describe(run.path, Path(), 0.0).success == 0.0


def test_what_was_written_is_graded_and_its_form_votes() -> None:
    env = MathEnv(tools="none")
    env.reset(seed=0, options={"task": "train/0"})
    turn = Turn("what?", "1,000.0", "1,000.0", 0, 2)
    trajectory = Trajectory(task_id="train/0", env_id="math", turns=[turn])
    note(trajectory, turn, env.step("<answer>1,000.0</answer>"), calls_before=0)
    assert trajectory.metadata == {"answer": "1000", "answer_written": "1,000.0"}
