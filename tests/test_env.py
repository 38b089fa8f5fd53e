"""TextEnv and Info: what every environment does alike."""

import copy
import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from helpers import WORDS, CountEnv, WordEnv

from agent_gym.env import INFO_KEYS, AnyText, Info, Task, TextEnv
from agent_gym.errors import EpisodeEnded, ForkDiverged, UnknownIdError


def lazy_info() -> tuple[Info, list[str]]:
    """Return an info with one lazy value and the list of its computations."""
    computed: list[str] = []

    def compute() -> list[str]:
        computed.append("once")
        return ["up", "down"]

    return Info({"turn": 1}, {"admissible_actions": compute}), computed


# -- Info --------------------------------------------------------------------------------------------------------------


def test_a_lazy_value_is_computed_when_read_and_only_once() -> None:
    info, computed = lazy_info()
    assert info["turn"] == 1 and "admissible_actions" in info and len(info) == 2
    assert computed == []
    assert info["admissible_actions"] == info["admissible_actions"] == ["up", "down"]
    assert computed == ["once"]


@pytest.mark.parametrize(
    "read",
    [
        lambda info: info.get("admissible_actions"),
        lambda info: dict(info)["admissible_actions"],
        lambda info: {**info}["admissible_actions"],
        lambda info: (info | {"more": 1})["admissible_actions"],
        lambda info: info.copy()["admissible_actions"],
        lambda info: dict(info.items())["admissible_actions"],
        lambda info: list(info.values())[1],
        lambda info: info.pop("admissible_actions"),
        lambda info: info.setdefault("admissible_actions", None),
        lambda info: copy.copy(info)["admissible_actions"],
        lambda info: copy.deepcopy(info)["admissible_actions"],
        lambda info: pickle.loads(pickle.dumps(info))["admissible_actions"],
    ],
)
def test_every_way_of_reading_gives_the_computed_value(read: Any) -> None:
    info, computed = lazy_info()
    assert read(info) == ["up", "down"]
    assert computed == ["once"]


def test_a_value_that_was_written_over_a_lazy_one_stays() -> None:
    for write in (lambda i: i.__setitem__("admissible_actions", ["x"]), lambda i: i.update(admissible_actions=["x"])):
        info, computed = lazy_info()
        write(info)
        assert info["admissible_actions"] == ["x"]
        assert computed == []


def test_get_and_pop_know_defaults_and_missing_keys_raise() -> None:
    info, _ = lazy_info()
    assert info.get("nothing") is None and info.get("nothing", 3) == 3 and info.pop("nothing", 4) == 4
    for read in (info.__getitem__, info.pop):
        with pytest.raises(KeyError):
            read("nothing")


def test_infos_compare_by_their_computed_values() -> None:
    assert lazy_info()[0] == lazy_info()[0] == {"turn": 1, "admissible_actions": ["up", "down"]}
    assert lazy_info()[0] != {"turn": 1, "admissible_actions": None}


def test_pickling_keeps_the_type_and_all_values() -> None:
    _, info = CountEnv().reset(seed=0)
    twin = pickle.loads(pickle.dumps(info))
    assert type(twin) is Info and twin == info and twin["admissible_actions"] == ["up", "down", "stop 0"]


# -- TextEnv -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", [WordEnv(), CountEnv(), CountEnv(render_mode="ansi")])
@pytest.mark.filterwarnings("ignore:.*not having a spec.*")
def test_check_env_passes(env: gymnasium.Env[str, str]) -> None:
    check_env(env, skip_render_check=env.render_mode is None)


def test_info_has_the_same_keys_at_every_turn() -> None:
    env = CountEnv()
    _, info = env.reset(seed=0)
    assert set(info) == set(INFO_KEYS)
    assert (info["task_id"], info["goal"], info["turn"]) == (env.task.id if env.task else None, "count to 3", 0)
    for turn in (1, 2):
        *_, info = env.step("nonsense")
        assert set(info) == set(INFO_KEYS)
        assert info["turn"] == turn and info["invalid_action"] is True


def test_admissible_actions_are_those_of_their_turn_even_when_read_later() -> None:
    env = CountEnv()
    env.reset(seed=0)
    *_, first = env.step("up")
    env.step("up")
    assert first["admissible_actions"][-1] == "stop 1"


@pytest.mark.parametrize("action", ["", " ", "\x00", "é" * 1000, "\ud800", "up\nup"])
def test_a_bad_action_is_an_observation(action: str) -> None:
    env = CountEnv()
    env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(action)
    assert observation and reward == 0 and not terminated and not truncated and info["invalid_action"]


def test_a_step_before_reset_or_after_the_end_raises() -> None:
    env = CountEnv(max_turns=2)
    with pytest.raises(EpisodeEnded):
        env.step("up")
    env.reset(seed=0)
    env.step("stop")
    with pytest.raises(EpisodeEnded):
        env.step("up")
    env.reset(seed=0)
    env.step("up")
    assert env.step("up")[2:4] == (False, True)
    with pytest.raises(EpisodeEnded):
        env.step("up")


def test_an_episode_that_ends_with_its_last_turn_is_terminated_and_not_truncated() -> None:
    env = CountEnv(max_turns=3)
    env.reset(seed=0)
    assert [env.step("up")[2:4] for _ in range(3)] == [(False, False), (False, False), (True, False)]


def test_the_seed_fixes_task_and_episode() -> None:
    def play(seed: int) -> list[Any]:
        env = CountEnv()
        observation, info = env.reset(seed=seed)
        return [info["task_id"], observation, *(env.step("down")[0] for _ in range(5))]

    assert play(3) == play(3)
    assert len({tuple(play(seed)) for seed in range(10)}) == 10
    assert {play(seed)[0] for seed in range(40)} == {f"count {number}" for number in range(5)}


def test_resets_without_a_seed_go_on_with_the_generator() -> None:
    one, two = CountEnv(), CountEnv()
    assert [one.reset(seed=1)[0], *(one.reset()[0] for _ in range(3))] == [
        two.reset(seed=1)[0],
        *(two.reset()[0] for _ in range(3)),
    ]


def test_no_global_random_state_is_touched() -> None:
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    env = CountEnv()
    env.reset(seed=5)
    env.fork().step("up")
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_options_select_a_task_from_any_split() -> None:
    env = WordEnv()
    for task in (*WORDS, "elbow"):
        _, info = env.reset(seed=0, options={"task": task})
        assert info["task_id"] == task
    assert env.find_task("elbow").split == "test"


def test_unknown_task_option_and_split_name_the_nearest() -> None:
    env = WordEnv()
    with pytest.raises(UnknownIdError, match="did you mean 'apple'"):
        env.reset(options={"task": "aple"})
    with pytest.raises(UnknownIdError, match="Unknown reset option 'tasks': did you mean 'task'"):
        env.reset(options={"tasks": "apple"})
    with pytest.raises(UnknownIdError, match="did you mean 'train'"):
        WordEnv(split="trian")
    with pytest.raises(ValueError, match="max_turns must be at least 1, not 0"):
        WordEnv(max_turns=0)


def test_a_fork_goes_on_as_its_parent_would_and_neither_disturbs_the_other() -> None:
    env, alone = CountEnv(), CountEnv()
    for each in (env, alone):
        each.reset(seed=7)
        each.step("up")
    child = env.fork()
    for action in ("down", "down", "down"):
        child.step(action)
    expected = [alone.step("up")[0] for _ in range(2)]
    assert [env.step("up")[0] for _ in range(2)] == expected
    assert (env.value, child.value, env.turn, child.turn) == (3, -2, 3, 4)
    child.step("up")
    with pytest.raises(EpisodeEnded):
        env.step("up")


def test_a_fork_has_its_own_copy_of_the_random_generators() -> None:
    env = CountEnv()
    env.reset(seed=7)
    env.action_space.seed(1)
    child, other = env.fork(), env.fork()
    assert child.reset()[0] == other.reset()[0] == env.reset()[0]
    assert child.action_space.sample() == env.action_space.sample()


def test_a_fork_before_the_first_reset_and_after_the_end_is_in_the_same_state() -> None:
    env = CountEnv()
    with pytest.raises(EpisodeEnded):
        env.fork().step("up")
    env.reset(seed=0)
    env.step("stop")
    with pytest.raises(EpisodeEnded):
        env.fork().step("up")


def test_expert_and_demonstrator_solve_the_task_or_are_none() -> None:
    import random

    env = CountEnv()
    observation, _ = env.reset(seed=0)
    policy = env.demonstrate(observation, random.Random(0))
    assert policy is not None
    action = next(policy)
    for _ in range(2):
        observation, *_ = env.step(action)
        action = policy.send(observation)
    assert env.step(action)[4]["success"] is True

    class Clueless(CountEnv):
        def expert(self) -> Any:
            return None

    assert Clueless().demonstrate("", random.Random(0)) is None


def test_render_gives_the_last_observation() -> None:
    env = CountEnv(render_mode="ansi")
    observation, _ = env.reset(seed=0)
    assert env.render() == observation
    assert env.step("up")[0] == env.render() != observation
    assert CountEnv().render() is None


def test_any_text_holds_every_string_up_to_its_length() -> None:
    space = AnyText(5)
    assert all(text in space for text in ("", " ", "a\nb", "é?!"))
    assert "123456" not in space and 5 not in space


class DeepEnv(CountEnv):
    """Forks as environments do that say nothing about it."""

    def _copy(self) -> "DeepEnv":
        return TextEnv._copy(self)


class ReplayEnv(CountEnv):
    """Forks as an environment does whose state cannot be copied."""

    def _copy(self) -> "ReplayEnv":
        return self._replay_on(ReplayEnv(max_turns=self.max_turns))


class DriftingEnv(CountEnv):
    """Is not deterministic: each instance says something else at its second turn."""

    instances = 0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        DriftingEnv.instances += 1
        self.number = DriftingEnv.instances

    def _said(self) -> str:
        return f"{super()._said()} {self.number if self.value == 2 else ''}"

    def _copy(self) -> "DriftingEnv":
        return self._replay_on(DriftingEnv())


@pytest.mark.parametrize("kind", [DeepEnv, ReplayEnv])
def test_a_fork_by_deep_copy_or_by_replay_goes_on_as_its_parent_would(kind: type[CountEnv]) -> None:
    env = kind(max_turns=6)
    env.reset(seed=5)
    env.step("up")
    env.step("nonsense")
    child = env.fork()
    assert (child.turn, child.task) == (env.turn, env.task)
    grandchild = child.fork()
    expected = [env.step(action)[0] for action in ("up", "down")]
    assert [child.step(action)[0] for action in ("up", "down")] == expected
    assert grandchild.step("stop")[2]
    assert env.reset()[0] == child.reset()[0]


def test_a_replay_that_diverges_names_the_turn() -> None:
    env = DriftingEnv()
    env.reset(seed=5)
    env.step("up")
    env.fork()
    env.step("up")
    with pytest.raises(ForkDiverged, match="at turn 2"):
        env.fork()


def test_a_split_without_tasks_is_said_to_be_empty() -> None:
    class Empty(CountEnv):
        def tasks(self, split: str) -> list[Task]:
            return []

    with pytest.raises(UnknownIdError, match="has no tasks"):
        Empty().reset(seed=0)


def test_a_reset_that_fails_leaves_no_episode_to_be_played_on() -> None:
    class Faulty(CountEnv):
        def _start(self, task: Any, rng: Any) -> Any:
            if task.id == "count 4":
                raise OSError("no such world")
            return super()._start(task, rng)

    env = Faulty()
    env.reset(seed=0, options={"task": "count 1"})
    with pytest.raises(OSError, match="no such world"):
        env.reset(seed=0, options={"task": "count 4"})
    with pytest.raises(EpisodeEnded):
        env.step("up")
