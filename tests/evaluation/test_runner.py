"""Playing tasks with an expert, with chance, and with a model."""

from pathlib import Path
from typing import Any

import pytest
from curves import logged, tensorboard
from helpers import CountEnv

from agent_gym.config import EvalConfig
from agent_gym.config_files import build
from agent_gym.errors import ConfigError, EngineError, UnknownIdError
from agent_gym.evaluation.plans import make_plans
from agent_gym.evaluation.runner import evaluate
from agent_gym.store.run import RunFolder


def config(**changes: Any) -> EvalConfig:
    tiny = {"env": {"id": "alfworld", "options": {"size": "tiny", "max_turns": 20}}, "tasks": 12, "model": "expert"}
    return build(EvalConfig, {**tiny, **changes})


def test_the_expert_solves_every_task_and_chance_solves_few() -> None:
    assert evaluate(config()).success_rate == 1.0
    assert evaluate(config(model="random")).success_rate < 0.5


def test_every_attempt_is_heard_and_stored(tmp_path: Path) -> None:
    heard: list[str] = []
    result = evaluate(config(attempts=2), tmp_path / "run", on_episode=lambda trajectory: heard.append(trajectory.id))
    assert len(heard) == result.score.episodes == result.planned == 24
    with RunFolder.open(tmp_path / "run").trajectories() as store:
        assert [trajectory.id for trajectory in store.select()] == heard
        assert all(trajectory.success for trajectory in store.select())


def test_trackers_are_told_of_an_evaluation(tmp_path: Path) -> None:
    evaluate(config(tasks=2, tracking=["tensorboard"]), tmp_path / "run")
    told = tensorboard(tmp_path / "run")
    assert told["eval/success_rate"] == [(0, 1.0)] and told == logged(tmp_path / "run")


def test_the_tasks_are_spread_over_the_split_in_their_order(tmp_path: Path) -> None:
    evaluate(config(split="valid_seen", tasks=3), tmp_path / "run")
    with RunFolder.open(tmp_path / "run").trajectories() as store:
        assert [trajectory.task_id for trajectory in store.select()] == [
            f"tiny-valid_seen-{index:06d}" for index in (0, 333, 666)
        ]


def test_the_same_seed_gives_the_same_score_and_another_seed_other_episodes() -> None:
    first, again = (evaluate(config(model="random", seed=3)).score for _ in range(2))
    assert first == again
    assert evaluate(config(model="random", seed=4)).score != first


class Fragile(CountEnv):
    """Breaks in one task of its five."""

    def expert(self) -> Any:
        assert self.task is not None
        return iter(["up", "crash"] if self.task.id == "count 1" else ["up", "up", "up"])


@pytest.mark.parametrize("model", ["expert"])
def test_a_crash_of_the_environment_costs_one_episode(model: str) -> None:
    values = {"env": {"id": f"{__file__}:Fragile"}, "split": "train", "tasks": 5, "model": model}
    score = evaluate(build(EvalConfig, values)).score
    assert (score.episodes, score.failed, score.successes) == (5, 1, 4)


def test_a_model_that_is_not_there_or_a_split_without_tasks_is_named() -> None:
    with pytest.raises(EngineError, match="There is no model in /no/such"):
        evaluate(config(model="/no/such"))
    with pytest.raises(UnknownIdError, match="Unknown split"):
        evaluate(config(split="nothing"))


def test_a_run_without_a_checkpoint_is_said_to_have_none(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", {})
    with pytest.raises(ConfigError, match="has no checkpoint yet"):
        evaluate(config(model=str(tmp_path / "run")))


def test_without_a_split_the_one_that_the_environment_holds_out_is_played() -> None:
    assert make_plans(config(split=None))[0].split == "valid_unseen"
    own = build(EvalConfig, {"env": {"id": "small_envs:WordEnv"}, "model": "expert", "tasks": 1})
    assert make_plans(own)[0].split == "test" and evaluate(own).success_rate == 1
