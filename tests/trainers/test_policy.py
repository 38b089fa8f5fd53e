"""Where a model comes from: what its tokenizer has read."""

from pathlib import Path
from typing import Any

import pytest
from helpers import CountEnv

from agent_gym.config import TrainConfig
from agent_gym.config_files import build
from agent_gym.trainers.policy import corpus, load_policy


class Clueless(CountEnv):
    """Has no demonstrator."""

    def expert(self) -> None:
        return None


class Silent(Clueless):
    """Does not even say what can be done."""

    def _state(self, **values: Any) -> Any:
        state = super()._state(**values)
        state.admissible = None
        return state


def config(kind: str = "", **changes: Any) -> TrainConfig:
    env = {"id": f"{__file__}:{kind}"} if kind else {"id": "alfworld", "options": {"size": "tiny"}}
    return build(TrainConfig, {"env": env, **changes})


def test_what_happens_on_detours_is_read_too() -> None:
    detours = {"mistakes": 0.1, "distractions": ["inventory"], "distracted": 0.2}
    tokenizer = load_policy(config(warm_start=detours)).tokenizer
    for text in ("Nothing happens.", "You are not carrying anything.", "inventory"):
        assert len(tokenizer.encode(text)) <= 2


@pytest.mark.parametrize(("kind", "heard"), [("Clueless", {"up", "down"}), ("Silent", set())])
def test_an_environment_without_a_demonstrator_is_read_as_far_as_one_can_get(kind: str, heard: set[str]) -> None:
    texts = corpus(config(kind))
    assert any(text.startswith("the number is 0; ") for text in texts) and "Goal: count to 3." in texts
    assert {text for text in texts if text in ("up", "down")} == heard


def test_both_sides_are_read_one_by_one(tmp_path: Path) -> None:
    texts = corpus(config(env={"id": f"{Path(__file__).parents[1] / 'helpers.py'}:WordEnv"}))
    assert {"say apple", "apple", "done"} <= set(texts)
