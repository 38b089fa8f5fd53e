"""What holds for every wrapper, alone and stacked."""

from pathlib import Path
from typing import Any

import pytest
from helpers import CountEnv

from agent_gym.env import TextEnv
from agent_gym.envs.alfworld import AlfworldEnv
from agent_gym.envs.conformance import conform
from agent_gym.envs.wrappers import TextWrapper
from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.registry import WRAPPERS, make

ARGUMENTS: dict[str, dict[str, Any]] = {
    "episode-recorder": {"path": "episodes.jsonl"},
    "reward-scaling": {"scale": 2.0, "high": 1.0},
    "tools": {"tools": ["calculator"]},
    "turn-limit": {"turns": 9},
}
STACK = [{"id": name, **ARGUMENTS.get(name, {})} for name in sorted(WRAPPERS) if name != "invalid-action-penalty"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # The comparison with the official engine has nothing to do with wrappers.
    monkeypatch.setattr(AlfworldEnv, "checks", {})


@pytest.mark.parametrize("wrappers", [*([wrapper] for wrapper in STACK), STACK], ids=lambda stack: stack[-1]["id"])
def test_a_wrapped_environment_conforms_as_the_bare_one_does(wrappers: Any) -> None:
    failed = {
        check.name: check.detail
        for check in conform(lambda: make("alfworld", size="tiny", wrappers=wrappers))
        if check.passed is False
    }
    assert failed == {}


def test_a_bare_wrapper_changes_nothing() -> None:
    bare, wrapped = CountEnv(), TextWrapper(CountEnv())
    assert wrapped.reset(seed=4) == bare.reset(seed=4)
    for action in ("up", "nonsense", "up"):
        assert wrapped.step(action) == bare.step(action)
    assert (wrapped.turn, wrapped.task, wrapped.max_turns) == (bare.turn, bare.task, bare.max_turns)
    assert list(wrapped.expert() or ()) == ["up", "up", "up"]


def test_the_limit_of_turns_is_set_inside() -> None:
    inner = CountEnv()
    wrapped = TextWrapper(inner)
    wrapped.max_turns = 1
    wrapped.reset(seed=0)
    assert inner.max_turns == 1 and wrapped.step("up")[3]


def test_a_demonstrator_reads_what_the_environment_says_itself() -> None:
    import random

    env: TextEnv = make("alfworld", size="tiny", wrappers=STACK[:3], max_turns=50)
    for seed in range(5):
        observation, _ = env.reset(seed=seed)
        policy = env.demonstrate(observation, random.Random(0))
        assert policy is not None
        action, success = next(policy, None), False
        while action is not None and not success:
            observation, *_, info = env.step(action)
            success = info["success"]
            action = None if success else policy.send(observation)
        assert success
    assert isinstance(env.unwrapped, AlfworldEnv)


def test_an_unknown_wrapper_or_argument_is_named() -> None:
    with pytest.raises(UnknownIdError, match="did you mean 'turn-limit'"):
        make("alfworld", wrappers=[{"id": "turns-limit"}])
    with pytest.raises(ConfigError, match=r"wrapper 'turn-limit' cannot be made .*'turns'"):
        make("alfworld", wrappers=[{"id": "turn-limit"}])
    with pytest.raises(ConfigError, match=r"Unknown option 'trun' of the wrapper 'turn-limit': did you mean 'turns'"):
        make("alfworld", wrappers=[{"id": "turn-limit", "trun": 3}])


def test_a_wrapper_of_ones_own_is_found_by_its_place() -> None:
    env = make("alfworld", size="tiny", wrappers=[{"id": "agent_gym.envs.wrappers:AdmissibleHint", "limit": 1}])
    assert env.reset(seed=0)[0].endswith(", ...")


def test_an_environment_that_waits_for_another_process_does_so_when_wrapped() -> None:
    inner = CountEnv()
    inner.blocking = True
    assert TextWrapper(TextWrapper(inner)).blocking
    assert not TextWrapper(CountEnv()).blocking
