"""The official engine beside ours: the same words on the same games, forks, deaths, and both dialects."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_gym.env import TextEnv
from agent_gym.envs.alfworld import AlfworldEnv
from agent_gym.envs.alfworld.engine import Simulator
from agent_gym.envs.alfworld.reference import open_reference, reference_installed, walk_both
from agent_gym.envs.conformance import conform
from agent_gym.envs.host import Host
from agent_gym.errors import MissingExtraError, UnknownIdError, WorkerError

GOLDEN = Path(__file__).parents[2] / "golden" / "alfworld" / "games.json.xz"
OFFICIAL = Path(__file__).parents[4] / "shared" / "data" / "alfworld_games.json.xz"

needs_the_engine = pytest.mark.skipif(
    not reference_installed(), reason="the extra alfworld-reference is not installed (make extras)"
)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    host = open_reference()
    yield host
    host.close()


@pytest.fixture
def opened() -> Iterator[Any]:
    envs: list[AlfworldEnv] = []

    def make(**options: Any) -> AlfworldEnv:
        envs.append(AlfworldEnv(**{"games": GOLDEN, "split": "all", "engine": "textworld", **options}))
        return envs[-1]

    yield make
    for env in envs:
        env.close()


def answers(env: TextEnv, task: str, actions: list[str]) -> list[Any]:
    said: list[Any] = [env.reset(seed=0, options={"task": task})]
    for action in actions:
        said.append(env.step(action))
        if said[-1][2]:
            break
    return said


def walk_all(host: Host, env: AlfworldEnv, tasks: list[str], turns: int) -> int:
    walked = 0
    for number, task in enumerate(tasks):
        env.reset(seed=0, options={"task": task})
        walked += sum(1 for _ in walk_both(host, env.game, env.written(task), random.Random(number), turns))
    return walked


@needs_the_engine
def test_random_walks_through_official_games_come_out_the_same(host: Host) -> None:
    env = AlfworldEnv(games=GOLDEN, split="all")
    one_of_each_type = {task.metadata["task_type"]: task.id for task in env.tasks("all")}
    assert walk_all(host, env, list(one_of_each_type.values()), turns=12) > 30


@needs_the_engine
@pytest.mark.slow
@pytest.mark.skipif(not OFFICIAL.is_file(), reason=f"no official games in {OFFICIAL.parent}")
def test_random_walks_through_more_official_games_come_out_the_same(host: Host) -> None:
    env = AlfworldEnv(games=OFFICIAL, split="all")
    tasks = random.Random(7).sample([task.id for task in env.tasks("all")], 3)
    assert walk_all(host, env, tasks, turns=12) > 10


@needs_the_engine
@pytest.mark.parametrize("size", ["tiny", "small"])
def test_random_walks_through_generated_games_come_out_the_same(host: Host, size: str) -> None:
    env = AlfworldEnv(size=size)
    tasks = env.tasks("train")
    assert walk_all(host, env, [tasks[index].id for index in range(4)], turns=15) > 20


@needs_the_engine
def test_a_difference_is_found_and_named(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    env = AlfworldEnv(size="tiny")
    env.reset(seed=0)
    monkeypatch.setattr(Simulator, "_inventory", lambda self, rest: "You have empty hands.", raising=True)
    monkeypatch.setattr("agent_gym.envs.alfworld.engine._HANDLERS", {"inventory": Simulator._inventory}, raising=True)
    with pytest.raises(AssertionError, match=r"the official engine says '.*' and ours '.*' in game .* after \["):
        for number in range(20):
            list(walk_both(host, env.game, env.written(env.game.id), random.Random(number), 20))


@needs_the_engine
def test_the_environment_answers_alike_with_either_engine(opened: Any) -> None:
    official, ours = opened(), AlfworldEnv(games=GOLDEN, split="all")
    for task in [task.id for task in ours.tasks("all")][:3]:
        actions = ["look", "open the door"]
        ours.reset(seed=0, options={"task": task})
        actions += list(ours.expert() or ())
        assert answers(official, task, actions) == answers(ours, task, actions)
        assert official._simulator is not None and official._simulator.won


@needs_the_engine
@pytest.mark.parametrize("alias", [False, True])
def test_both_dialects_are_spoken_and_the_other_is_understood_if_asked(opened: Any, alias: bool) -> None:
    official, ours = opened(put_alias=alias), AlfworldEnv(games=GOLDEN, split="all", put_alias=alias)
    task = next(task.id for task in ours.tasks("all") if "pick_and_place" in task.id)
    ours.reset(seed=0, options={"task": task})
    *way, last = list(ours.expert() or ())
    assert last.startswith("move ")
    other = last.replace("move ", "put ").replace(" to ", " in/on ")
    found = answers(official, task, [*way, other])
    assert found == answers(ours, task, [*way, other])
    assert found[-1][2] is alias


@needs_the_engine
def test_a_fork_of_the_official_engine_goes_its_own_way(opened: Any) -> None:
    env = opened()
    task = env.tasks("all")[0].id
    env.reset(seed=0, options={"task": task})
    first, *rest = list(env.expert() or ())
    env.step(first)
    child = env.fork()
    assert child._host.pid != env._host.pid
    env.step("look")
    for action in rest:
        child.step(action)
    assert child._simulator.won and not env._simulator.won
    child.close()
    env.step(rest[0])


@needs_the_engine
def test_a_killed_engine_costs_the_episode_only(opened: Any) -> None:
    env = opened(games=None, split="train", size="tiny")
    env.reset(seed=0)
    os.kill(env._host.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match="has died"):
        env.step("look")
    env.reset(seed=0)
    assert not env.step("look")[4]["invalid_action"]


@needs_the_engine
def test_it_passes_the_conformance_suite(opened: Any) -> None:
    made = lambda: opened(games=None, split="train", size="tiny")  # noqa: E731
    wanted = ("info", "fork", "bad actions", "after the end", "oracle", "globals")
    checks = [check for name in wanted for check in conform(made, only=name)]
    assert not [check for check in checks if check.passed is False]


@needs_the_engine
def test_the_suite_compares_both_engines_by_itself() -> None:
    (check,) = conform(lambda: AlfworldEnv(size="tiny"), only="official engine")
    assert check.passed and "6 games" in check.detail


def test_without_the_extra_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'agent-gym\[alfworld-reference\]'"):
        AlfworldEnv(engine="textworld")
    with pytest.raises(MissingExtraError):
        open_reference()
    (check,) = conform(lambda: AlfworldEnv(size="tiny"), only="official engine")
    assert check.passed is None and "alfworld-reference" in check.detail


def test_an_unknown_engine_names_the_nearest() -> None:
    with pytest.raises(UnknownIdError, match="did you mean 'textworld'"):
        AlfworldEnv(engine="textword")  # type: ignore[arg-type]
