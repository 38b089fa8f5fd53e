"""The hint lists what can be done now, and nothing where there is no list."""

from typing import Any

from helpers import CountEnv

from agent_gym.envs.wrappers import AdmissibleHint


def test_the_actions_of_this_turn_are_appended() -> None:
    env = AdmissibleHint(CountEnv())
    observation, _ = env.reset(seed=0)
    assert observation.endswith("\nAdmissible actions: up, down, stop 0")
    assert env.step("up")[0].endswith("\nAdmissible actions: up, down, stop 1")


def test_a_long_list_is_cut() -> None:
    env = AdmissibleHint(CountEnv(), limit=2)
    assert env.reset(seed=0)[0].endswith("\nAdmissible actions: up, down, ...")


def test_without_a_list_nothing_changes() -> None:
    class Silent(CountEnv):
        def _state(self, **values: Any) -> Any:
            state = super()._state(**values)
            state.admissible = None
            return state

    assert AdmissibleHint(Silent()).reset(seed=0)[0] == Silent().reset(seed=0)[0]
