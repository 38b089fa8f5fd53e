"""Gymnasium environments of text as TextEnvs."""

from typing import Any

import gymnasium
import pytest
from gymnasium.spaces import Discrete

from agent_gym.env import AnyText, TextEnv
from agent_gym.envs.conformance import CHECKS, conform
from agent_gym.errors import ConfigError, ForkDiverged, UnknownIdError
from agent_gym.gymnasium_env import rewarded


class Guess(gymnasium.Env[str, str]):
    """Guess a digit; words are not understood."""

    def __init__(self, steady: bool = True) -> None:
        self.observation_space, self.action_space = AnyText(100), AnyText(100)
        self.steady = steady
        self.closed = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.digit = int(self.np_random.integers(10))
        return "Guess a digit.", {"available_actions": [str(i) for i in range(10)]}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        guess = int(action.strip()[:4])
        right = guess == self.digit
        hint = "Right." if right else "More." if guess < self.digit else "Less."
        if not self.steady:
            hint += str(id(self))
        return hint, float(right), right, False, {"available_actions": [str(i) for i in range(10)]}

    def close(self) -> None:
        self.closed = True


def solve(env: TextEnv) -> list[tuple[float, bool, bool]]:
    answers = []
    for digit in range(10):
        _, reward, terminated, _, info = env.step(str(digit))
        answers.append((reward, terminated, info["success"]))
        if terminated:
            break
    return answers


@pytest.mark.parametrize("name", list(CHECKS))
def test_a_wrapped_environment_conforms(name: str) -> None:
    (check,) = conform(lambda: TextEnv.from_gymnasium(Guess), only=name)
    assert check.passed in ((None,) if name == "oracle" else (True,)), check.detail


def test_rewards_and_success_come_through() -> None:
    env = TextEnv.from_gymnasium(Guess, goal="find the digit")
    _, info = env.reset(seed=0)
    assert info["goal"] == "find the digit" and info["admissible_actions"][-1] == "9"
    *failed, last = solve(env)
    assert last == (1.0, True, True) and set(failed) <= {(0.0, False, False)}


def test_a_task_is_a_seed_and_the_splits_share_none() -> None:
    env = TextEnv.from_gymnasium(Guess)
    assert [env.tasks(split)[0].id for split in env.splits] == ["seed-0", "seed-1000000", "seed-2000000"]
    env.reset(seed=9, options={"task": "seed-7"})
    plain = Guess()
    plain.reset(seed=7)
    assert env._env.digit == plain.digit  # type: ignore[attr-defined]
    for wrong in ("seed-3000000", "seed-07", "7"):
        with pytest.raises(UnknownIdError, match="go from 'seed-0'"):
            env.find_task(wrong)


def test_what_is_not_understood_is_an_invalid_action_and_a_crash_is_a_crash() -> None:
    env = TextEnv.from_gymnasium(Guess)
    env.reset(seed=0)
    observation, _, _, _, info = env.step("seven")
    assert observation.startswith("This action is not understood: invalid literal") and info["invalid_action"]
    strict = TextEnv.from_gymnasium(Guess, bad_action=())
    strict.reset(seed=0)
    with pytest.raises(ValueError, match="invalid literal"):
        strict.step("seven")


def test_a_fork_of_what_does_not_repeat_itself_says_where() -> None:
    env = TextEnv.from_gymnasium(lambda: Guess(steady=False))
    env.reset(seed=0)
    env.fork()
    env.step("11")
    with pytest.raises(ForkDiverged, match="at turn 1"):
        env.fork()


def test_success_is_what_the_info_says_else_a_positive_reward() -> None:
    assert rewarded(0.0, {"won": True}) and not rewarded(1.0, {"is_success": False})
    assert rewarded(0.5, {}) and not rewarded(0.0, {})


def test_environments_without_text_or_name_are_refused() -> None:
    class Numbers(Guess):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = Discrete(3)  # type: ignore[assignment]

    with pytest.raises(ConfigError, match=r"The actions of .* are Discrete\(3\)"):
        TextEnv.from_gymnasium(Numbers)
    with pytest.raises(UnknownIdError, match="gymnasium does not know"):
        TextEnv.from_gymnasium("no/such-v0")


def test_closing_closes_what_is_inside() -> None:
    inner = Guess()
    TextEnv.from_gymnasium(lambda: inner).close()
    assert inner.closed


def test_what_is_made_already_and_options_nobody_knows_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"is made already, and a fork needs a second one: give its class"):
        TextEnv.from_gymnasium(Guess())  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match=r"Unknown option 'max_turn' of TextEnv.from_gymnasium: did you mean 'max_turns'"
    ):
        TextEnv.from_gymnasium(Guess, max_turn=3)
