"""AlfworldEnv: a gymnasium environment over generated or given games, which can be forked in mid-episode."""

import pickle
import random
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

import agent_gym
from agent_gym.env import INFO_KEYS
from agent_gym.envs.alfworld import AlfworldEnv, load_games
from agent_gym.envs.alfworld.data import get_games, official_games
from agent_gym.envs.alfworld.games import GeneratedGames, generate
from agent_gym.errors import EpisodeEnded, GameError, UnknownIdError
from agent_gym.registry import register_in_gymnasium

GOLDEN = Path(__file__).parents[2] / "golden" / "alfworld" / "games.json.xz"
LOOK = "train/look_at_obj_in_light-Box-None-DeskLamp-225/trial_T20190908_140219_482769"


def wander(env: AlfworldEnv, rng: random.Random, info: dict[str, Any], turns: int) -> list[tuple[Any, ...]]:
    """Take random admissible actions; return all that the environment said."""
    said = []
    for _ in range(turns):
        *spoken, info = env.step(rng.choice(info["admissible_actions"]))
        said.append((*spoken, dict(info.items())))
        if spoken[2] or spoken[3]:
            break
    return said


@pytest.mark.parametrize("render_mode", [None, "ansi"])
def test_check_env_passes(render_mode: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*not having a spec.*")
        check_env(AlfworldEnv(size="tiny", render_mode=render_mode), skip_render_check=False)


def test_gymnasium_and_agent_gym_make_it() -> None:
    register_in_gymnasium()
    for env in (gymnasium.make("agent_gym/ALFWorld-v1", size="tiny"), agent_gym.make("alfworld", size="tiny")):
        observation, _ = env.reset(seed=0)
        assert observation.startswith("You are in the middle of a room.")
        assert "Your task is to: " in observation


@pytest.mark.parametrize("games", [None, GOLDEN])
def test_the_expert_solves_the_task_for_a_reward_of_one(games: Path | None) -> None:
    env = AlfworldEnv(games)
    for seed in range(20):
        env.reset(seed=seed)
        *before, last = [env.step(action) for action in env.expert() or ()]
        assert all(turn[1:4] == (0.0, False, False) for turn in before)
        assert last[1:4] == (1.0, True, False)
        assert (last[4]["success"], last[4]["score"]) == (True, 1.0)
        with pytest.raises(EpisodeEnded):
            env.step("look")


def test_info_has_the_common_keys_and_the_task_type() -> None:
    env = AlfworldEnv(GOLDEN)
    _, info = env.reset(options={"task": LOOK})
    assert set(INFO_KEYS) | {"task_type"} == set(info)
    assert (info["task_id"], info["task_type"]) == (LOOK, "look_at_obj_in_light")
    assert info["goal"] == env.game.objective
    assert (info["turn"], info["invalid_action"], info["success"], info["score"]) == (0, False, False, 0.0)
    *_, info = env.step("fly")
    assert (info["turn"], info["invalid_action"]) == (1, True)


def test_the_episode_is_truncated_after_max_turns() -> None:
    env = AlfworldEnv(size="tiny", max_turns=3)
    env.reset(seed=0)
    assert [env.step("look")[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]


def test_the_same_seed_gives_the_same_task_and_another_seed_another() -> None:
    one, two = AlfworldEnv(size="tiny"), AlfworldEnv(size="tiny")
    ids = [one.reset(seed=seed)[1]["task_id"] for seed in range(8)]
    assert ids == [two.reset(seed=seed)[1]["task_id"] for seed in range(8)]
    assert len(set(ids)) > 1
    assert one.reset()[1]["task_id"] == two.reset()[1]["task_id"]


def test_a_task_of_any_split_can_be_asked_for() -> None:
    env = AlfworldEnv(GOLDEN, split="train")
    (seen,) = env.tasks("valid_seen")
    assert env.reset(options={"task": seen.id})[1]["task_id"] == seen.id
    generated = AlfworldEnv(size="tiny")
    task = generated.tasks("valid_unseen")[5]
    assert generated.reset(options={"task": task.id})[1]["task_id"] == task.id


def test_tasks_tell_id_split_and_type_without_loading() -> None:
    env = AlfworldEnv(GOLDEN, split="all")
    assert {task.split for task in env.tasks("all")} == {"train", "valid_seen"}
    assert env.find_task(LOOK).metadata["task_type"] == "look_at_obj_in_light"
    assert len(env.tasks("train")) + len(env.tasks("valid_seen")) == len(env.tasks("all"))
    assert list(env.tasks("valid_unseen")) == []
    assert [task.id for task in env.tasks("train")[:2]] == [env.tasks("train")[i].id for i in range(2)]
    assert len(AlfworldEnv(size="tiny").tasks("train")) > 1000


def test_an_unknown_task_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownIdError, match=f"did you mean '{LOOK}'"):
        AlfworldEnv(GOLDEN).reset(options={"task": LOOK[:-2]})
    with pytest.raises(UnknownIdError, match="Unknown game 'nonsense'"):
        AlfworldEnv(size="tiny").reset(options={"task": "nonsense"})


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"split": "test"}, "'test'"),
        ({"split": "valid_train"}, "'valid_train'"),
        ({"games": GOLDEN, "split": "valid_unseen"}, "'valid_unseen'"),
        ({"task_types": ["pick"]}, "'pick'"),
        ({"size": "huge"}, "'huge'"),
    ],
)
def test_unknown_arguments_are_named(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(UnknownIdError, match=word):
        AlfworldEnv(**arguments)


def test_a_path_without_games_is_a_game_error(tmp_path: Path) -> None:
    with pytest.raises(GameError):
        AlfworldEnv(tmp_path)


def test_games_can_be_given_in_every_form() -> None:
    listed = [generate(seed, size="tiny") for seed in range(3)]
    for games in (listed, load_games(GOLDEN), str(GOLDEN), GeneratedGames("train", "tiny")):
        env = AlfworldEnv(games)
        assert env.find_task(env.reset(seed=0)[1]["task_id"]).split == "train"
    assert sorted(game.id for game in listed) == [task.id for task in AlfworldEnv(listed).tasks("train")]


@pytest.mark.parametrize("games", [None, GOLDEN])
def test_only_the_wanted_task_types_are_drawn(games: Path | None) -> None:
    env = AlfworldEnv(games, task_types=["look_at_obj_in_light"], size="small")
    assert {env.reset(seed=seed)[1]["task_type"] for seed in range(10)} == {"look_at_obj_in_light"}


def test_the_admissible_actions_of_an_old_turn_stay_those_of_that_turn() -> None:
    lazy, eager = AlfworldEnv(size="small"), AlfworldEnv(size="small")
    infos, expected = [lazy.reset(seed=3)[1]], [list(eager.reset(seed=3)[1]["admissible_actions"])]
    for action in lazy.expert() or ():
        infos.append(lazy.step(action)[4])
        expected.append(list(eager.step(action)[4]["admissible_actions"]))
    assert [info["admissible_actions"] for info in infos] == expected


def test_a_fork_and_its_parent_do_not_disturb_each_other() -> None:
    for seed in range(5):
        parent, twin = AlfworldEnv(size="small"), AlfworldEnv(size="small")
        for env in (parent, twin):
            _, info = env.reset(seed=seed)
            wander(env, random.Random(1), info, 8)
        child = parent.fork()
        wander(child, random.Random(2), {"admissible_actions": ["look"]}, 20)
        child.reset()
        rng_state = random.getstate()
        said = [wander(env, random.Random(3), {"admissible_actions": ["look"]}, 20) for env in (parent, twin)]
        assert said[0] == said[1]
        assert random.getstate() == rng_state


def test_a_fork_draws_the_tasks_that_its_parent_would_draw() -> None:
    parent = AlfworldEnv(size="tiny")
    parent.reset(seed=0)
    child, other = parent.fork(), parent.fork()
    tasks = [[env.reset()[1]["task_id"] for _ in range(4)] for env in (child, parent, other)]
    assert tasks[0] == tasks[1] == tasks[2]


def test_a_fork_has_action_spaces_of_its_own() -> None:
    parent, twin = AlfworldEnv(size="tiny"), AlfworldEnv(size="tiny")
    for env in (parent, twin):
        env.reset(seed=0)
        env.action_space.seed(0)
    parent.fork().action_space.sample()
    assert parent.action_space.sample() == twin.action_space.sample()


def test_a_fork_counts_turns_from_where_its_parent_stood() -> None:
    env = AlfworldEnv(size="tiny", max_turns=4)
    env.reset(seed=0)
    env.step("look")
    child = env.fork()
    assert [child.step("look")[3] for _ in range(3)] == [False, False, True]
    assert env.step("look")[4]["turn"] == 2


def test_an_environment_that_was_not_reset_can_be_forked() -> None:
    child = AlfworldEnv(size="tiny").fork()
    assert child.expert() is None
    with pytest.raises(EpisodeEnded):
        child.step("look")
    with pytest.raises(EpisodeEnded):
        _ = child.game


@pytest.mark.parametrize(
    "action",
    ["", "\x00", "look\x00", "\ud800", "😀", "go to " * 9, "look" + " " * 70_000, "x" * 1_000_000, "take\n1 from 2"],
)
def test_a_weird_action_is_an_observation(action: str) -> None:
    env = AlfworldEnv(size="tiny")
    env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(action)
    assert (observation, reward, terminated, truncated) == ("Nothing happens.", 0.0, False, False)
    assert info["invalid_action"]


def test_put_is_understood_where_the_alias_is_wanted() -> None:
    for alias in (False, True):
        env = AlfworldEnv(size="small", task_types=["pick_and_place_simple"], put_alias=alias)
        env.reset(seed=0)
        *approach, placing = env.game.walkthrough
        placing = placing.replace("move ", "put ").replace(" to ", " in/on ")
        assert [env.step(action) for action in (*approach, placing)][-1][2] == alias


@pytest.mark.parametrize("games", [None, GOLDEN])
def test_an_environment_can_be_pickled_in_mid_episode(games: Path | None) -> None:
    env = AlfworldEnv(games, size="tiny")
    env.reset(seed=0)
    env.step("inventory")
    twin = pickle.loads(pickle.dumps(env))
    assert twin.step("look")[0] == env.step("look")[0]


def test_official_games_come_from_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AGENT_GYM_CACHE", str(tmp_path))
    with pytest.raises(GameError, match="agent-gym data get alfworld"):
        AlfworldEnv(games="official")
    get_games("mine", source=GOLDEN)
    monkeypatch.setattr("agent_gym.envs.alfworld.env.official_games", lambda: official_games("mine"))
    assert len(AlfworldEnv(games="official", split="all").tasks("all")) == len(load_games(GOLDEN))
