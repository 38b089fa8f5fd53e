"""A run that was killed, interrupted or stopped goes on: nothing is lost, and nothing is played twice."""

import os
import signal
from pathlib import Path
from typing import Any

import forking
import pytest
from evaluation import guessing
from openai_server import chat, serving

from agent_gym.config import EvalConfig
from agent_gym.config_files import build
from agent_gym.errors import AgentGymError, ConfigError, DataError, StoreError
from agent_gym.evaluation.resuming import stored_config, suite_records
from agent_gym.evaluation.runner import Evaluation, evaluate
from agent_gym.store.run import RunFolder
from agent_gym.trajectory import Trajectory

ENV, ENGINE = f"{guessing.__file__}:Guess", f"{guessing.__file__}:Patient"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(**changes: Any) -> EvalConfig:
    values = {"env": {"id": ENV}, "model": ENGINE, "split": "test", "tasks": 6, "rollout": {"concurrency": 4}}
    return build(EvalConfig, {**values, **changes})


def stored(path: Path) -> dict[str, Trajectory]:
    with RunFolder.open(path).trajectories() as store:
        return {each.id: each for each in store.select(phase="eval")}


def ended(folder: Path) -> list[str]:
    return (folder / guessing.ENDED).read_text().splitlines()


def gym(folder: Path, *arguments: str) -> Any:
    return forking.agent_gym(["eval", *arguments], folder, dict(os.environ))


def alike(one: Trajectory, other: Trajectory) -> bool:
    """Whether two records tell the same; how long it took does not count."""
    told = ("id", "task_id", "seed", "success", "score", "token_ids", "metadata", "error")
    return all(getattr(one, name) == getattr(other, name) for name in told)


START = ["--env", ENV, "--model", ENGINE, "--split", "test", "--tasks", "30", "--n", "2", "--workers", "8"]


def test_after_kill_9_every_episode_is_there_once_and_as_if_nothing_had_happened(folder: Path) -> None:
    guessing.interrupt_at(folder, 25, signal.SIGKILL)
    killed = gym(folder, *START, "--name", "a")
    assert killed.returncode == -signal.SIGKILL
    before = stored(folder / "runs" / "a")
    assert len(before) == len(ended(folder)) > 10

    (folder / guessing.STOP).unlink()
    resumed = gym(folder, "--name", "a", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert f"60 episodes, {len(before)} of them there already" in resumed.stdout
    assert len(ended(folder)) == len(set(ended(folder))) == 60

    assert gym(folder, *START, "--name", "b").returncode == 0
    after, undisturbed = stored(folder / "runs" / "a"), stored(folder / "runs" / "b")
    assert set(after) == {f"eval/{task}/{attempt}" for task in range(30) for attempt in range(2)}
    assert all(alike(after[id], undisturbed[id]) for id in after)
    assert all(alike(before[id], after[id]) for id in before)
    a, b = (RunFolder.open(folder / "runs" / name).metrics() for name in "ab")
    assert a == b and len(a) == 1


def test_ctrl_c_keeps_what_has_ended_and_says_how_to_go_on(folder: Path) -> None:
    guessing.interrupt_at(folder, 25, signal.SIGINT)
    stopped = gym(folder, *START, "--name", "a")
    assert stopped.returncode == 130 and "Traceback" not in stopped.stderr
    assert "go on with agent-gym eval --name a --resume" in stopped.stdout
    assert 0 < len(stored(folder / "runs" / "a")) < 60


def test_a_run_that_is_complete_is_not_played_again_and_another_attempt_is_added(folder: Path) -> None:
    first = evaluate(config(), "run")
    again = evaluate(config(), "run", resume=True)
    assert again.score == first.score and len(ended(folder)) == 6
    more = evaluate(config(attempts=3), "run", resume=True)
    assert more.score.episodes == 18 and len(set(ended(folder))) == 18
    assert stored_config(Path("run"))["attempts"] == 3
    with pytest.raises(ConfigError, match="has 3 attempts a task: on resume they can be raised, not lowered to 2"):
        evaluate(config(attempts=2), "run", resume=True)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 3}, "seed=0, not 3"),
        ({"rollout": {"max_tokens": 9, "concurrency": 4}}, "rollout.max_tokens=64, not 9"),
        ({"env": {"id": ENV, "options": {"max_turns": 2}}}, r"env.options=\{\}, not"),
        ({"temperature": 0.5}, "temperature=1.0, not 0.5"),
    ],
)
def test_another_configuration_is_refused_and_its_key_is_named(changes: dict[str, Any], key: str) -> None:
    evaluate(config(), "run")
    with pytest.raises(ConfigError, match=key):
        evaluate(config(**changes), "run", resume=True)


def test_what_does_not_change_an_episode_may_change() -> None:
    evaluate(config(), "run")
    evaluate(config(rollout={"concurrency": 2}, limits={"tokens": 10**9}, k=[1, 2]), "run", resume=True)
    with pytest.raises(StoreError, match="exists"):
        evaluate(config(), "run")


def test_a_server_whose_model_was_named_may_move() -> None:
    def at(url: str, name: str | None = "small", **more: Any) -> EvalConfig:
        return config(model=url, tasks=2, **more, **({"server": {"name": name}} if name else {}))

    with serving(lambda asked, number: chat("a")) as first, serving(lambda asked, number: chat("a")) as second:
        evaluate(at(first.url), "run")
        assert evaluate(at(second.url, attempts=2), "run", resume=True).score.episodes == 4 and second.asked
        assert stored_config(Path("run"))["model"] == second.url
        with pytest.raises(ConfigError, match=r"server.name=small, not large"):
            evaluate(at(first.url, "large"), "run", resume=True)
        evaluate(at(first.url, None), "unnamed")
        with pytest.raises(ConfigError, match="model=http"):
            evaluate(at(second.url, None), "unnamed", resume=True)


def test_a_task_that_has_changed_since_is_named(folder: Path) -> None:
    evaluate(config(tasks=30), "run")
    (folder / "changed.txt").write_text("!")
    with pytest.raises(DataError, match=r"The task 'test 3' .* does not say what it said"):
        evaluate(config(tasks=30), "run", resume=True)


def test_failed_episodes_are_played_again_alone(folder: Path) -> None:
    (folder / guessing.BROKEN).write_text("test 5,test 10")
    first = evaluate(config(), "run")
    assert (first.score.episodes, first.score.failed) == (6, 2)
    good = {id: each for id, each in stored(Path("run")).items() if each.error is None}
    (folder / guessing.BROKEN).write_text("test 10")
    second = evaluate(config(), "run", retry_failed=True)
    assert (second.score.episodes, second.score.failed) == (6, 1)
    (folder / guessing.BROKEN).unlink()
    third = evaluate(config(), "run", retry_failed=True)
    assert (third.score.episodes, third.score.failed) == (6, 0)
    assert len(ended(folder)) == len(set(ended(folder))) == 6
    assert all(alike(each, stored(Path("run"))[id]) for id, each in good.items())


def test_retrying_alone_leaves_what_is_missing_out(folder: Path) -> None:
    (folder / guessing.BROKEN).write_text("test 0")
    limited = evaluate(config(rollout={"concurrency": 1}, limits={"tokens": 1}), "run")
    assert limited.stopped and limited.score.episodes < 6
    (folder / guessing.BROKEN).unlink()
    again = evaluate(config(), "run", retry_failed=True)
    assert again.score.episodes == limited.score.episodes and again.score.failed == 0


class TestLimits:
    def test_tokens_end_it_between_episodes_and_a_higher_limit_goes_on(self, folder: Path) -> None:
        whole = evaluate(config(), "whole")
        (folder / guessing.ENDED).unlink()
        spent = sum(
            turn.prompt_tokens + turn.end - turn.start for each in stored(Path("whole")).values() for turn in each.turns
        )

        def limited(tokens: int) -> EvalConfig:
            return config(limits={"tokens": tokens}, rollout={"concurrency": 1})

        half = evaluate(limited(spent // 2), "run")
        assert "tokens" in half.stopped and half.score.episodes == 3 and half.planned == 6
        assert RunFolder.open(Path("run")).metrics() == []
        # What was used up counts on resume, too.
        again = evaluate(limited(spent // 2), "run", resume=True)
        assert again.stopped and again.score.episodes == 3
        rest = evaluate(limited(spent * 2), "run", resume=True)
        assert not rest.stopped and rest.score == whole.score and len(set(ended(folder))) == len(ended(folder)) == 6

    def test_wall_time_drops_what_is_in_flight(self) -> None:
        silent = config(model=f"{guessing.__file__}:Silent", limits={"seconds": 3.0}, rollout={"concurrency": 2})
        stopped = evaluate(silent, "run")
        assert stopped.stopped == "3 seconds" and stopped.score.episodes == 2
        assert all(each.error is None for each in stored(Path("run")).values())

    def test_an_episode_that_takes_too_long_has_failed_and_the_others_go_on(self) -> None:
        silent = config(model=f"{guessing.__file__}:Silent", limits={"episode_seconds": 1.0})
        result = evaluate(silent, "run")
        assert (result.score.episodes, result.score.failed) == (6, 4)
        errors = {each.error for each in stored(Path("run")).values()}
        assert errors == {None, "TimeoutError: not done after 1 s"}

    def test_what_failed_episodes_have_cost_counts_after_they_were_played_again(self, folder: Path) -> None:
        paid = config(model=f"{guessing.__file__}:Paid", limits={"cost": 100.0})
        (folder / guessing.HALFWAY).write_text("test 5,test 10")
        assert evaluate(paid, "run").score.failed == 2
        assert evaluate(paid, "run", retry_failed=True).score.failed == 2
        (folder / guessing.HALFWAY).unlink()
        assert evaluate(paid, "run", retry_failed=True).score.failed == 0
        with RunFolder.open(Path("run")).trajectories() as store:
            # Six episodes of three turns, and two that broke off in their second turn, twice.
            assert store.spent("eval") == (26 * 11, 26.0)
            assert sum(row.cost or 0.0 for row in store.outcomes("eval")) == 18.0
        more = config(model=f"{guessing.__file__}:Paid", limits={"cost": 26.0}, attempts=2)
        assert evaluate(more, "run", resume=True).stopped == "26.00 of 26.00 dollars"

    def test_a_limit_in_dollars_without_a_price_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="needs a model with a price"):
            evaluate(config(limits={"cost": 1.0}), "run")

    @pytest.mark.parametrize("model", ["expert", "random", "human", "scripted:a.jsonl", "/no/such"])
    def test_dollars_of_who_has_no_price_are_refused_before_anything_is_played(self, folder: Path, model: str) -> None:
        with pytest.raises(ConfigError, match=f"needs a model with a price, and {model} does not say"):
            evaluate(config(model=model, limits={"cost": 1.0}), "run")
        assert not (folder / "run").exists()

    def test_dollars_of_a_server_that_counts_no_tokens_cannot_be_limited(self) -> None:
        with serving(lambda asked, number: chat("a", usage=None)) as server:
            priced = config(model=server.url, server={"price": [1.0, 2.0]}, limits={"cost": 1.0})
            with pytest.raises(ConfigError, match=r"the server of small-model.* does not say how many tokens"):
                evaluate(priced, "run")


def test_two_processes_do_not_write_to_one_run(folder: Path) -> None:
    evaluate(config(), "runs/a")
    from agent_gym.store.holding import held

    with held(folder / "runs" / "a"):
        second = gym(folder, "--name", "a", "--resume", "--n", "2")
    assert second.returncode == 2 and "is writing to the run" in second.stderr


def test_a_run_says_what_its_suites_were_and_every_episode_where_it_belongs() -> None:
    result: Evaluation = evaluate(config(attempts=2), "run")
    (record,) = suite_records(Path("run"))
    assert (record["split"], len(record["tasks"]), record["attempts"]) == ("test", 6, 2)
    one = stored(Path("run"))["eval/1/1"]
    assert one.metadata["attempt"] == "1" and one.metadata["split"] == "test" and "suite" not in one.metadata
    assert one.metadata["task_type"] == "odd" and one.metadata["answer"] == "c"
    assert one.group_id == "eval/1" and result.folder == Path("run")


def test_progress_counts_what_is_played_again_when_it_has_been(folder: Path) -> None:
    (folder / guessing.BROKEN).write_text("test 5,test 10")
    evaluate(config(), "run")
    (folder / guessing.BROKEN).unlink()
    told: list[Any] = []

    class Heard:
        def begin(self, plan: Any, score: Any, count: int) -> None:
            told.append((score.episodes, score.failed, count))

        def episode(self, trajectory: Trajectory) -> None:
            told.append(trajectory.id)

    evaluate(config(), "run", retry_failed=True, listener=Heard())
    assert told == [(4, 0, 6), "eval/1/0", "eval/2/0"]


def test_a_model_that_is_not_there_leaves_no_folder_behind(folder: Path) -> None:
    with pytest.raises(AgentGymError, match="No server answers"):
        evaluate(config(model="http://127.0.0.1:9/v1"), "run")
    assert not (folder / "run").exists()
    assert evaluate(config(), "run").score.episodes == 6
