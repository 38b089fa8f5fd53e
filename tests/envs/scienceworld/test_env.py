import gc
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from agent_gym.env import Info, State
from agent_gym.envs.conformance import CHECKS, conform
from agent_gym.envs.scienceworld import TASKS, ScienceWorldEnv
from agent_gym.envs.scienceworld.simulator import Process, Simulator
from agent_gym.envs.scienceworld.tasks import SPLITS, split_range
from agent_gym.errors import EpisodeEnded, StaleInfo

pytest.importorskip("scienceworld")

MakeEnv = Callable[..., ScienceWorldEnv]
SOME_TASKS = ["find-plant", "power-component", "identify-life-stages-2"]
OUTSIDE = ["teleport to outside", *["wait1", "look around"] * 6]
"""Animals wander there, as chance will have it."""
MIXING = [
    "look around",
    "wait1",
    "inventory",
    "pour cup containing blue paint in art studio in bowl",
    "pour cup containing yellow paint in art studio in bowl",
    "mix bowl",
    "focus on green paint",
]
WIRING = [
    "go to workshop",
    "focus on red light bulb",
    "connect battery anode to green wire terminal 1",
    "connect battery cathode to black wire terminal 1",
    "connect green wire terminal 2 to cathode in red light bulb",
    "connect black wire terminal 2 to anode in red light bulb",
    "wait1",
]


def play(env: ScienceWorldEnv, actions: Sequence[str]) -> list[tuple[str, float, bool]]:
    answers = []
    for action in actions:
        observation, reward, terminated, *_ = env.step(action)
        answers.append((observation, reward, terminated))
    return answers


def begin(env: ScienceWorldEnv, task: str) -> dict[str, Any]:
    return env.reset(options={"task": task})[1]


def solve(env: ScienceWorldEnv) -> tuple[float, Any]:
    """Return the sum of the rewards of the expert's episode, and its last info."""
    total, info = 0.0, None
    for action in env.expert() or ():
        _, reward, terminated, truncated, info = env.step(action)
        total += reward
        if terminated or truncated:
            break
    return total, info


def test_the_table_and_the_rule_of_splits_are_those_of_the_simulator(process: Process) -> None:
    simulator = Simulator(process)
    world = simulator._world
    names = simulator._strings(process.call(world, "getTaskNames"))
    assert sorted(names) == sorted(TASKS)
    for name in names:
        process.call(world, "taskStr_$eq", name)
        assert process.call(world, "getTaskMaxVariations", name) == TASKS[name]
        for split in SPLITS:
            listed = process.call(world, f"getVariations{split.capitalize()}")
            assert process.call(listed, "toString") == str(list(split_range(name, split)))
    simulator.close()


def test_an_episode_begins_with_the_task_and_what_is_seen(make_env: MakeEnv) -> None:
    observation, info = make_env().reset(options={"task": "boil/0"})
    assert observation.startswith("Your task is to boil water. ")
    assert "\n\nThis room is called the hallway. In it, you see: \n\tthe agent\n" in observation
    assert info["goal"].startswith("Boil water. For compounds without a boiling point")
    assert not info["goal"].endswith(".")
    assert (info["task"], info["variation"], info["raw_score"], info["moves"]) == ("boil", 0, 0, 0)


def test_rewards_add_up_to_what_the_score_has_grown_by(make_env: MakeEnv) -> None:
    env = make_env()
    info = begin(env, "find-plant/0")
    assert info["raw_score"] == 8, "looking around is a step of this task"
    total, info = solve(env)
    assert total == pytest.approx(0.92)
    assert (info["success"], info["score"], info["raw_score"]) == (True, 1.0, 100)


@pytest.mark.parametrize("reward", ["final", "success"])
def test_the_reward_can_come_at_the_end_alone(make_env: MakeEnv, reward: str) -> None:
    env = make_env(reward=reward)
    begin(env, "find-plant/0")
    *before, last = list(env.expert() or ())
    assert {reward for _, reward, _ in play(env, before)} == {0.0}
    assert play(env, [last])[0][1:] == (1.0, True)


@pytest.mark.parametrize(("reward", "worth"), [("final", 0.08), ("success", 0.0)])
def test_a_truncated_episode_is_worth_its_score_but_no_success(make_env: MakeEnv, reward: str, worth: float) -> None:
    env = make_env(reward=reward, max_turns=2)
    begin(env, "find-plant/0")
    assert [reward for _, reward, _ in play(env, ["look around", "wait1"])] == [0.0, worth]


def test_babble_is_counted_as_turns(make_env: MakeEnv) -> None:
    env = make_env(max_turns=3)
    begin(env, "boil/0")
    answers = [env.step("abracadabra") for _ in range(3)]
    assert [answer[3] for answer in answers] == [False, False, True]
    assert answers[-1][4]["moves"] == 0


@pytest.mark.parametrize(("reward", "worth"), [("delta", -1.0), ("final", 0.0), ("success", 0.0)])
def test_a_fatal_mistake_ends_the_episode(make_env: MakeEnv, reward: str, worth: float) -> None:
    env = make_env(reward=reward)
    begin(env, "find-plant/0")
    _, given, terminated, truncated, info = env.step("focus on agent")
    assert (given, terminated, truncated) == (worth, True, False)
    assert (info["raw_score"], info["score"], info["success"]) == (-100, 0.0, False)
    with pytest.raises(EpisodeEnded):
        env.step("look around")


@pytest.mark.parametrize("action", ["reset task", " RESET   the\ttask\n", "a reset an task", "reset\x00task"])
def test_the_task_cannot_be_reset_from_within(make_env: MakeEnv, action: str) -> None:
    env = make_env()
    begin(env, "find-plant/0")
    observation, reward, terminated, _, info = env.step(action)
    assert observation == "This is not possible here."
    assert (reward, terminated, info["invalid_action"], info["raw_score"], info["moves"]) == (0.0, False, True, 8, 0)


def test_an_action_that_is_none_is_invalid(make_env: MakeEnv) -> None:
    env = make_env()
    begin(env, "boil/0")
    observation, *_, info = env.step("dance")
    assert (observation, info["invalid_action"]) == ("No known action matches that input.", True)
    assert not env.step("look around")[4]["invalid_action"]


def test_a_question_is_answered_by_number(make_env: MakeEnv) -> None:
    env = make_env()
    begin(env, "boil/0")
    question, *_, info = env.step("look at door")
    assert question.startswith("Ambiguous request: Please enter the number")
    assert not info["invalid_action"]
    assert info["admissible_actions"] == [str(number) for number in range(6)]
    chosen = next(line for line in question.split("\n") if "workshop" in line).partition(":")[0]
    answer, *_, info = env.step(chosen)
    assert "workshop" in answer
    assert not info["invalid_action"]


def test_a_question_that_is_not_answered_takes_the_action_back(make_env: MakeEnv) -> None:
    env = make_env()
    begin(env, "boil/0")
    env.step("look at door")
    answer, *_, info = env.step("the second one")
    assert answer.startswith("Unknown action.")
    assert info["invalid_action"]
    assert not env.step("look around")[4]["invalid_action"]


def test_admissible_actions_are_those_of_the_turn_without_doubles_and_reset(make_env: MakeEnv) -> None:
    env = make_env()
    actions = begin(env, "boil/0")["admissible_actions"]
    assert "look around" in actions
    assert "reset task" not in actions
    assert len(actions) == len(set(actions))
    assert not env.step(actions[0])[4]["invalid_action"]


@pytest.mark.parametrize("move_on", ["step", "reset", "close"])
def test_admissible_actions_cannot_be_read_too_late(make_env: MakeEnv, move_on: str) -> None:
    env = make_env()
    info = begin(env, "boil/0")
    {"step": lambda: env.step("wait1"), "reset": lambda: begin(env, "melt/0"), "close": env.close}[move_on]()
    with pytest.raises(StaleInfo, match="before the next step"):
        info["admissible_actions"]


def test_admissible_actions_can_be_read_when_the_world_is_as_it_was_again(make_env: MakeEnv) -> None:
    env = make_env()
    begin(env, "boil/0")
    info = env.step("wait1")[4]
    begin(env, "boil/0")
    again = env.step("wait1")[4]
    assert info["admissible_actions"] == again["admissible_actions"]


def test_admissible_actions_that_were_read_stay(make_env: MakeEnv) -> None:
    env = make_env()
    info = begin(env, "boil/0")
    actions = info["admissible_actions"]
    env.step("wait1")
    assert info["admissible_actions"] == actions


def test_reading_admissible_actions_does_not_change_what_happens(make_env: MakeEnv) -> None:
    one, other = make_env(), make_env()
    begin(one, "lifespan-longest-lived/0")
    expected = play(one, OUTSIDE)
    begin(other, "lifespan-longest-lived/0")
    for action, (observation, *_) in zip(OUTSIDE, expected, strict=True):
        found, *_, info = other.step(action)
        assert found == observation
        assert info["admissible_actions"]


def test_every_reset_of_a_variation_is_the_same_to_the_letter(make_env: MakeEnv) -> None:
    for task in ("boil/3", "test-conductivity/3"):
        texts = set()
        for _ in range(5):
            env = make_env()
            observation, _ = env.reset(options={"task": task})
            texts.add((observation, *(text for text, *_ in play(env, OUTSIDE[:3]))))
        assert len(texts) == 1


def test_worlds_that_take_turns_in_one_process_do_not_disturb_each_other(make_env: MakeEnv) -> None:
    # Alike and unlike in task and simplification; mixing makes new objects, and animals wander by chance.
    paint, animals = "chemistry-mix-paint-secondary-color/1", "lifespan-longest-lived/0"
    casts = [("easy", paint), ("easy", animals), ("easy", "power-component/2"), ("", paint), ("openDoors", animals)]
    scripts = {paint: MIXING, animals: OUTSIDE, "power-component/2": WIRING}

    def answer(env: ScienceWorldEnv, action: str) -> tuple[Any, ...]:
        if env._ended:
            return ()
        observation, reward, terminated, _, info = env.step(action)
        return observation, reward, terminated, info["moves"]

    alone = []
    for simplification, task in casts:
        env = make_env(simplification=simplification)
        begin(env, task)
        alone.append([answer(env, action) for action in scripts[task]])
        env.close()
    together = [make_env(simplification=simplification) for simplification, _ in casts]
    for env, (_, task) in zip(together, casts, strict=True):
        begin(env, task)
    found: list[list[Any]] = [[] for _ in casts]
    for turn in range(max(map(len, scripts.values()))):
        for env, (_, task), answers in zip(together, casts, found, strict=True):
            if turn < len(scripts[task]):
                answers.append(answer(env, scripts[task][turn]))
    assert found == alone
    assert found[0][-1][1:3] == (pytest.approx(0.6), True), "the paint is mixed"


def test_forks_share_their_parents_process_and_the_last_one_ends_it() -> None:
    parent = ScienceWorldEnv(tasks=["find-plant"])
    parent.reset(seed=0)
    assert parent._simulator is not None
    process = parent._simulator.process
    parent.step("wait1")
    child = parent.fork()
    grandchild = child.fork()
    assert grandchild._simulator is not None
    assert grandchild._simulator.process is process
    child.step("teleport to kitchen")
    assert grandchild.step("look around")[0] == parent.step("look around")[0] != child.step("look around")[0]
    parent.close()
    grandchild.close()
    assert process.alive
    child.reset(seed=1)
    del child
    gc.collect()
    assert not process.alive


def test_a_fork_asks_no_solution_again(make_env: MakeEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env()
    begin(env, "find-plant/0")
    solution = list(env.expert() or ())
    monkeypatch.setattr(Simulator, "solve", None)
    with env.fork() as child:
        assert list(child.expert() or ()) == solution


def test_the_expert_does_not_disturb_the_episode(make_env: MakeEnv) -> None:
    one, other = make_env(), make_env()
    begin(one, "lifespan-longest-lived/0")
    begin(other, "lifespan-longest-lived/0")
    head = play(one, OUTSIDE[:4])
    assert play(other, OUTSIDE[:4]) == head
    assert list(other.expert() or ())
    assert play(other, OUTSIDE[4:]) == play(one, OUTSIDE[4:])


@pytest.mark.parametrize(
    "task", ["power-component/0", "chemistry-mix-paint-secondary-color/1", "identify-life-stages-2/0"]
)
def test_the_expert_solves_its_task(make_env: MakeEnv, task: str) -> None:
    env = make_env()
    begin(env, task)
    _, info = solve(env)
    assert info["raw_score"] == 100


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_expert_solves_every_task(make_env: MakeEnv, task: str) -> None:
    env = make_env(max_turns=200)
    begin(env, f"{task}/0")
    _, info = solve(env)
    assert info["raw_score"] == 100


def test_there_is_no_expert_before_the_first_reset() -> None:
    assert ScienceWorldEnv().expert() is None


def test_observations_that_list_in_another_order_say_the_same() -> None:
    env = ScienceWorldEnv()
    one = "In it, you see: \n\tan axe\n\ta table. On the table is: a bowl (containing a fig, a pear), a cup."
    other = "In it, you see: \n\ta table. On the table is: a cup, a bowl (containing a pear, a fig).\n\tan axe"
    assert env.same_observation(one, other)
    assert not env.same_observation(one, other.replace("fig", "date"))


def test_the_package_is_left_as_it_was_installed(make_env: MakeEnv) -> None:
    spec = find_spec("scienceworld")
    assert spec is not None and spec.origin is not None
    before = {path: path.stat().st_mtime_ns for path in Path(spec.origin).parent.iterdir() if path.is_file()}
    begin(make_env(), "boil/0")
    after = {path: path.stat().st_mtime_ns for path in Path(spec.origin).parent.iterdir() if path.is_file()}
    assert after == before


class ReadAtOnce(ScienceWorldEnv):
    """Reads its admissible actions at every turn."""

    def _info(self, state: State) -> Info:
        info = super()._info(state)
        info["admissible_actions"]
        return info


@pytest.mark.parametrize("check", [pytest.param(c, marks=pytest.mark.slow) if c == "fork" else c for c in CHECKS])
def test_it_passes_the_conformance_suite(make_env: MakeEnv, process: Process, check: str) -> None:
    def make() -> ScienceWorldEnv:
        if check != "gymnasium":
            return make_env(tasks=SOME_TASKS)
        # gymnasium's checker keeps the infos of several turns and reads them at the end, when it is too late.
        env = ReadAtOnce(tasks=SOME_TASKS)
        env._simulator = Simulator(process)
        return env

    (result,) = conform(make, only=check)
    assert result.passed, result.detail
