"""TextWorld: walkthroughs win, scores come as differences, commands to the interpreter are refused, forks are exact."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_gym.env import TextEnv
from agent_gym.envs.conformance import conform
from agent_gym.envs.host import Host
from agent_gym.errors import ConfigError, GameError, MissingExtraError, UnknownIdError, WorkerError

pytest.importorskip("textworld", reason="the extra textworld is not installed")

from agent_gym.envs.textworld import CHALLENGES, TextWorldEnv
from agent_gym.envs.textworld.env import _commands_the_interpreter
from agent_gym.envs.textworld.games import BACKEND, Makers

QUICK: dict[str, dict[str, Any]] = {
    "cooking": {"recipe": 2, "take": 1, "cut": True},
    "coin-collector": {"level": 2},
    "treasure-hunter": {"level": 1},
    "simple": {"rewards": "balanced"},
    "custom": {"nb_rooms": 2, "nb_objects": 4, "quest_length": 2},
}


@pytest.fixture(scope="module", autouse=True)
def imported() -> Iterator[None]:
    """Keep a worker idle, so that not every test has to import TextWorld anew."""
    idle = Host(f"{BACKEND}:Player", False)
    yield
    idle.close()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("games")


@pytest.fixture
def opened(cache: Path) -> Iterator[Callable[..., TextWorldEnv]]:
    envs = []

    def make(challenge: str = "cooking", **options: Any) -> TextWorldEnv:
        settings = {} if "games" in options else {"settings": QUICK[challenge]}
        envs.append(TextWorldEnv(**{"challenge": challenge, "cache": cache, **settings, **options}))
        return envs[-1]

    yield make
    for env in envs:
        env.close()


@pytest.fixture(scope="module")
def folder(cache: Path) -> Path:
    """A folder with a game of each of two splits, to be opened as files."""
    folder = cache / "given"
    env = TextWorldEnv(challenge="cooking", settings=QUICK["cooking"], cache=cache)
    for split, name in (("train", "meal"), ("valid", "supper")):
        (folder / split).mkdir(parents=True)
        for suffix in (".z8", ".json"):
            made = env._games.path(env.tasks(split)[0], Makers()).with_suffix(suffix)
            (folder / split / f"{name}{suffix}").write_bytes(made.read_bytes())
    return folder


def finish(env: TextEnv) -> tuple[list[float], Any, str]:
    """Follow the expert; return the rewards, the last info and the last observation."""
    rewards, info, observation = [], None, ""
    for action in env.expert() or ():
        observation, reward, _, _, info = env.step(action)
        rewards.append(reward)
    return rewards, info, observation


@pytest.mark.parametrize("challenge", CHALLENGES)
def test_the_walkthrough_of_a_generated_game_wins(opened: Any, challenge: str) -> None:
    env = opened(challenge)
    observation, info = env.reset(seed=0, options={"task": env.tasks("train")[0].id})
    assert info["goal"] and info["admissible_actions"] and not info["success"]
    assert "$$" not in observation and not observation.rstrip().endswith(">") and "\n\n\n" not in observation
    rewards, info, last = finish(env)
    assert info["success"] and info["score"] == 1.0
    assert sum(rewards) == pytest.approx(1.0) and "*** The End ***" in last and "RESTART" not in last


def test_rewards_are_gains_of_the_score_or_the_victory_alone(opened: Any) -> None:
    env = opened("cooking")
    env.reset(seed=0, options={"task": "cooking/0"})
    rewards, _, _ = finish(env)
    assert sum(reward > 0 for reward in rewards) > 1
    env = opened("cooking", reward="success")
    env.reset(seed=0, options={"task": "cooking/0"})
    rewards, _, _ = finish(env)
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]


def test_a_generated_game_is_made_once_and_is_the_same_wherever_it_is_made(opened: Any, tmp_path: Path) -> None:
    env = opened("coin-collector")
    path = env._games.path(env.find_task("coin-collector/0"), Makers())
    made = path.stat().st_mtime_ns
    assert env._games.path(env.find_task("coin-collector/0"), Makers()).stat().st_mtime_ns == made
    elsewhere, used = opened("coin-collector", cache=tmp_path), Makers()
    elsewhere._games.path(elsewhere.find_task("coin-collector/1"), used)
    again = elsewhere._games.path(elsewhere.find_task("coin-collector/0"), used)
    assert again.with_suffix(".json").read_bytes() == path.with_suffix(".json").read_bytes()
    assert sorted(entry.name for entry in again.parent.iterdir()) == ["0.json", "0.z8", "1.json", "1.z8"]


def test_games_of_other_settings_splits_and_seeds_are_other_files(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_gym.envs.textworld.games._made", lambda path, make: path)
    paths = set()
    for settings in ({"level": 2}, {"level": 3}):
        env = opened("coin-collector", settings=settings)
        paths |= {env._games.path(task, Makers()) for split in env.splits for task in env.tasks(split)[:3]}
    assert len(paths) == 18
    cooking = opened("cooking")
    seen, unseen = (cooking._games.path(cooking.tasks(split)[0], Makers()).parent for split in ("train", "test"))
    assert seen != unseen, "other splits cook with other food"


def test_files_are_played_and_belong_to_the_split_that_their_folder_names(opened: Any, folder: Path) -> None:
    env = opened(games=folder)
    assert [task.id for task in env.tasks("train")] == ["train/meal"]
    assert [task.id for task in env.tasks("valid")] == ["valid/supper"]
    env.reset(seed=0, options={"task": "valid/supper"})
    assert finish(env)[1]["success"]
    alone = opened(games=folder / "train" / "meal.z8")
    assert [task.id for task in alone.tasks("train")] == ["meal"]


def test_a_description_without_a_compiled_game_is_compiled(opened: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "meal.json").write_bytes((folder / "train" / "meal.json").read_bytes())
    original, compiled = opened(games=folder / "train" / "meal.z8"), opened(games=tmp_path)
    assert compiled.reset(seed=0)[0] == original.reset(seed=0)[0]
    assert finish(compiled)[1]["success"]
    (tmp_path / "meal.ulx").touch()
    assert opened(games=tmp_path / "meal.ulx").reset(seed=0)[0] == original.reset(seed=0)[0]


def test_what_is_no_game_is_one_sentence(opened: Any, tmp_path: Path) -> None:
    with pytest.raises(GameError, match="There is no game file or folder"):
        opened(games=tmp_path / "nothing.z8")
    with pytest.raises(GameError, match="game lies in"):
        opened(games=tmp_path)
    (tmp_path / "old.ulx").touch()
    with pytest.raises(GameError, match=r"Glulx.*put its \.json beside it"):
        opened(games=tmp_path)


def test_unknown_challenges_settings_and_rewards_name_the_nearest(opened: Any) -> None:
    with pytest.raises(UnknownIdError, match="did you mean 'cooking'"):
        TextWorldEnv(challenge="coking")
    with pytest.raises(UnknownIdError, match="did you mean 'recipe'"):
        TextWorldEnv(settings={"recipes": 2})
    with pytest.raises(ConfigError, match="size must be from 1"):
        TextWorldEnv(size=0)
    with pytest.raises(UnknownIdError, match="there are 5 a split"):
        opened(size=5).find_task("cooking/5")
    with pytest.raises(UnknownIdError, match="did you mean 'score'"):
        TextWorldEnv(reward="scores")  # type: ignore[arg-type]
    for id_ in ("cooking/-1", "cooking/3000000", "cooking/01", "cooking", "simple/1"):
        with pytest.raises(UnknownIdError, match="train from 'cooking/0'"):
            opened().find_task(id_)


def test_a_setting_that_the_challenge_refuses_is_a_configuration_error(opened: Any) -> None:
    env = opened("coin-collector", settings={"level": 100000})
    with pytest.raises(ConfigError, match="change its settings"):
        env.reset(seed=0)


COMMANDS_TO_THE_INTERPRETER = [
    *("save", "  SAVE ", "restart", "undo", "quit", "\\q", "tw-print max_score", "print_state", "print_statexyz"),
    *("transcript", "transcripts.py", "transcript_", "script", "restrict commands", "you, save", "oops save", '"save"'),
]


@pytest.mark.parametrize("action", COMMANDS_TO_THE_INTERPRETER)
def test_commands_to_the_interpreter_do_nothing(
    opened: Any, action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    env = opened(cache=opened()._games._cache)
    env.reset(seed=0, options={"task": "cooking/0"})
    before = env.step("look")[0]
    _, reward, terminated, _, info = env.step(action)
    assert (reward, terminated, info["invalid_action"]) == (0.0, False, True)
    assert env.step("look")[0] == before
    assert not list(tmp_path.iterdir())


def test_the_interpreter_has_no_folder_to_write_to(
    opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("agent_gym.envs.textworld.env._commands_the_interpreter", lambda command: False)
    env = opened()
    env.reset(seed=0, options={"task": "cooking/0"})
    for action in ("transcript", "transcripts.py", "save"):
        env.step(action)
    assert not list(tmp_path.iterdir())


def test_words_of_the_interpreter_may_stand_in_the_middle_of_a_command() -> None:
    assert not _commands_the_interpreter("take type Q keycard from the undo box")
    assert not _commands_the_interpreter("take apple, banana")


def test_only_the_first_command_of_an_action_is_given(opened: Any) -> None:
    env, other = opened(), opened()
    for each in (env, other):
        each.reset(seed=0, options={"task": "cooking/0"})
    assert env.step("look. inventory")[0] == other.step("look")[0]
    actions = list(env.expert() or ())
    rewards = [env.step(f"{action} then {action}")[1] for action in actions]
    assert sum(rewards) == pytest.approx(1.0) and env._frame.won


def test_a_game_that_nobody_can_score_is_refused(opened: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bare.z8").write_bytes((folder / "train" / "meal.z8").read_bytes())
    with pytest.raises(GameError, match=r"cannot be scored: put the \.json"):
        opened(games=tmp_path / "bare.z8").reset(seed=0)


def test_folders_above_the_given_one_say_nothing_of_splits(opened: Any, folder: Path, tmp_path: Path) -> None:
    given = tmp_path / "test" / "games"
    given.mkdir(parents=True)
    for name in ("meal.z8", "meal.json"):
        (given / name).write_bytes((folder / "train" / name).read_bytes())
    assert [task.id for task in opened(games=given).tasks("train")] == ["meal"]
    with pytest.raises(GameError, match="have the same name: give the folder above both"):
        opened(games=[given / "meal.z8", folder / "train" / "meal.z8"])


def test_an_action_is_invalid_where_it_neither_was_listed_nor_did_anything(opened: Any) -> None:
    for admissible in (True, False):
        env = opened(admissible=admissible)
        _, info = env.reset(seed=0, options={"task": "cooking/0"})
        assert (info["admissible_actions"] is None) is not admissible
        assert not env.step("look")[4]["invalid_action"] and not env.step("inventory")[4]["invalid_action"]
        assert env.step("xyzzy")[4]["invalid_action"] and env.step("")[4]["invalid_action"]
        assert finish(env)[1]["success"]


def test_a_fork_is_a_fork_of_the_worker(opened: Any) -> None:
    env = opened()
    env.reset(seed=0, options={"task": "cooking/0"})
    actions = list(env.expert() or ())
    for action in actions[:2]:
        env.step(action)
    child = env.fork()
    assert child._host.pid != env._host.pid
    env.step("go north")
    for action in actions[2:]:
        _, _, terminated, _, info = child.step(action)
    assert terminated and info["success"] and not env.step("look")[4]["success"]
    child.close()


def test_a_killed_worker_costs_the_episode_and_the_next_reset_starts_another(opened: Any) -> None:
    env = opened()
    env.reset(seed=0, options={"task": "cooking/0"})
    os.kill(env._host.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match="has died"):
        env.step("look")
    env.reset(seed=0, options={"task": "cooking/0"})
    assert finish(env)[1]["success"]


def test_a_worker_makes_room_for_a_fresh_one_after_many_episodes(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_gym.envs.textworld.env._RECYCLE", 2)
    env = opened()
    pids = []
    for _ in range(4):
        env.reset(seed=0, options={"task": "cooking/0"})
        pids.append(env._host.pid)
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_it_passes_the_conformance_suite(opened: Any, folder: Path) -> None:
    failed = [check for check in conform(lambda: opened(games=folder)) if not check.passed]
    assert not failed


def test_a_missing_extra_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'agent-gym\[textworld\]'"):
        TextWorldEnv()


def test_the_makers_of_games_end_with_the_last_environment_that_used_them(opened: Any, tmp_path: Path) -> None:
    one, other = opened("custom", cache=tmp_path), opened("custom", cache=tmp_path)
    for env, task in ((one, "custom/0"), (other, "custom/1")):
        env.reset(seed=0, options={"task": task})
    assert one._makers is other._makers
    (maker,) = one._makers._idle
    one.close()
    assert maker.alive
    other.close()
    pid = maker.pid
    del maker
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
