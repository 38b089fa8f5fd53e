"""The generator of household games: solvable, repeatable, like the official games, and split without overlap."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import product
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_gym.envs.alfworld.engine import Simulator
from agent_gym.envs.alfworld.figures import load_figures
from agent_gym.envs.alfworld.games import SIZES, SPLITS, GeneratedGames, generate, layout_key
from agent_gym.envs.alfworld.plans import TASK_COUNTS, TEMPLATES, pair_key
from agent_gym.envs.alfworld.scene import TASK_TYPES, Game
from agent_gym.errors import UnknownIdError

KITCHEN_ONLY = ("pick_heat_then_place_in_recep", "pick_cool_then_place_in_recep")


def games(
    count: int, *, split: str = "train", size: str = "tiny", task_types: tuple[str, ...] = TASK_TYPES
) -> list[Game]:
    return [generate(seed, split=split, size=size, task_types=task_types) for seed in range(count)]


def digest(sample: Iterable[Game]) -> str:
    """Name a list of games by everything in them that has an order."""
    parts = []
    for game in sample:
        items = [(i.name, i.receptacle, i.location, sorted(i.properties), sorted(i.states)) for i in game.items]
        parts.append((game.id, game.objective, game.goal, game.receptacles, items, game.walkthrough))
    return hashlib.sha256(repr(parts).encode()).hexdigest()


# -- one game ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "split", "task_type"), [*product(SIZES, SPLITS, TASK_TYPES)])
def test_walkthrough_solves_the_game_and_wins_with_its_last_command(size: str, split: str, task_type: str) -> None:
    for game in games(6, split=split, size=size, task_types=(task_type,)):
        simulator = Simulator(game)
        assert game.objective in simulator.start()
        for command in game.walkthrough:
            assert not simulator.won, f"{game.id} is won before its walkthrough ends"
            assert command in simulator.admissible(), f"{command!r} is not admissible in {game.id}"
            simulator.step(command)
        assert simulator.won, f"{game.id} is not won by its walkthrough"


@given(
    seed=st.integers(0, 10**9),
    split=st.sampled_from(SPLITS),
    size=st.sampled_from(list(SIZES)),
    task_types=st.lists(st.sampled_from(TASK_TYPES), min_size=1, unique=True),
)
def test_any_arguments_give_a_well_formed_solvable_game(
    seed: int, split: str, size: str, task_types: list[str]
) -> None:
    game = generate(seed, split=split, size=size, task_types=task_types)
    assert game.split == split
    assert game.task_type in task_types
    receptacles = [r.name for r in game.receptacles]
    items = [i.name for i in game.items]
    assert len(set(receptacles + items)) == len(receptacles) + len(items)
    assert game.start_location not in {r.location for r in game.receptacles}
    for item in game.items:
        assert item.receptacle is not None
        assert item.location == game.receptacles[item.receptacle].location
    simulator = Simulator(game)
    simulator.start()
    assert not simulator.won
    for command in game.walkthrough:
        simulator.step(command)
    assert simulator.won


@given(seed=st.integers(0, 10**6), size=st.sampled_from(list(SIZES)))
def test_names_are_numbered_from_one_and_listed_downwards_by_kind(seed: int, size: str) -> None:
    game = generate(seed, size=size)
    for things in (game.receptacles, game.items):
        listed = [(thing.kind, thing.name) for thing in things]
        kinds = sorted({kind for kind, _ in listed}, key=lambda kind: kind.lower() + "_")
        count = Counter(kind for kind, _ in listed)
        assert listed == [(k, f"{k.lower()} {n}") for k in kinds for n in range(count[k], 0, -1)]


def test_objectives_use_both_sentences_of_every_task_type() -> None:
    for task_type in TASK_TYPES:
        expected = set()
        told = set()
        for game in games(40, task_types=(task_type,)):
            goal = game.goal
            words = {
                "object": goal.object_kind.lower(),
                "place": goal.receptacle_kind.lower(),
                "lamp": goal.toggle_kind.lower(),
            }
            sentences = [template.format(**words) for template in TEMPLATES[task_type]]
            assert game.objective in sentences
            told.add(sentences.index(game.objective))
            expected |= set(range(len(sentences)))
        assert told == expected


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "split"), [*product(("tiny", "small", "medium"), SPLITS)])
def test_sizes_keep_their_bounds(size: str, split: str) -> None:
    bounds = SIZES[size]
    assert bounds.receptacles
    assert bounds.objects
    for game in games(100, split=split, size=size):
        copies = sum(item.kind == game.goal.object_kind for item in game.items)
        needed = 2 if game.task_type == "pick_two_obj_and_place" else 1
        assert bounds.receptacles[0] <= len(game.receptacles) <= bounds.receptacles[1]
        assert bounds.objects[0] <= len(game.items) <= bounds.objects[1]
        assert needed <= copies <= bounds.copies


def test_tiny_games_have_five_receptacles_six_objects_and_often_a_closed_one() -> None:
    sample = games(300)
    assert {len(game.receptacles) for game in sample} == {5}
    assert {len(game.items) for game in sample} == {6}
    assert mean(any(r.openable for r in game.receptacles) for game in sample) > 0.6
    assert min(len({item.kind for item in game.items}) for game in sample) >= 3


@pytest.mark.parametrize("size", SIZES)
def test_placing_tasks_occur_in_all_four_rooms_at_every_size(size: str) -> None:
    marks = {"Toilet": "bathroom", "Bed": "bedroom", "StoveBurner": "kitchen", "Sofa": "living room"}
    for task_type in ("pick_and_place_simple", "pick_two_obj_and_place"):
        sample = games(150, size=size, task_types=(task_type,))
        seen = {marks[r.kind] for game in sample for r in game.receptacles if r.kind in marks}
        assert seen == set(marks.values())


# -- repeatable --------------------------------------------------------------------------------------------------------


def test_the_same_games_come_out_of_another_process() -> None:
    code = f"import runpy; print(runpy.run_path({__file__!r})['sample_digest']())"
    answers = set()
    for hash_seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
        answers.add(run.stdout.strip())
    assert answers == {sample_digest()}


def sample_digest() -> str:
    return digest(game for size, split in product(SIZES, SPLITS) for game in games(10, split=split, size=size))


def test_another_seed_or_split_gives_another_game() -> None:
    sample = [generate(seed, split=split, size="small") for seed in range(50) for split in SPLITS]
    assert len({digest([game]) for game in sample}) == len(sample)


# -- splits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_valid_unseen_shares_no_layout_and_no_goal_pair_with_the_other_splits(size: str) -> None:
    seen = games(400, size=size) + games(200, split="valid_seen", size=size)
    unseen = games(200, split="valid_unseen", size=size)
    assert not {layout_key(g) for g in seen} & {layout_key(g) for g in unseen}
    assert not {pair_key(g.goal) for g in seen} & {pair_key(g.goal) for g in unseen}


@pytest.mark.parametrize("size", SIZES)
def test_every_task_type_and_only_known_words_occur_in_valid_unseen(size: str) -> None:
    train_kinds = {item.kind for game in games(400, size=size) for item in game.items}
    unseen = games(300, split="valid_unseen", size=size)
    assert {game.task_type for game in unseen} == set(TASK_TYPES)
    assert {game.goal.object_kind for game in unseen} <= train_kinds


# -- like the official games -------------------------------------------------------------------------------------------


def test_task_types_are_mixed_as_in_the_official_training_split() -> None:
    count = 2000
    drawn = Counter(game.task_type for game in games(count))
    total = sum(TASK_COUNTS.values())
    for task_type, official in TASK_COUNTS.items():
        assert drawn[task_type] / count == pytest.approx(official / total, abs=0.035)


def test_official_size_has_the_numbers_of_the_official_games() -> None:
    sample = games(400, size="official")
    # The 3,553 official training games have 23.5 receptacles and 31.5 objects in them on average.
    assert mean(len(game.receptacles) for game in sample) == pytest.approx(23.5, rel=0.12)
    assert mean(len(game.items) for game in sample) == pytest.approx(31.5, rel=0.12)
    assert max(len(game.receptacles) for game in sample) > 40


def test_official_kitchens_have_the_cabinets_drawers_and_apples_of_the_official_games() -> None:
    sample = games(300, size="official", task_types=KITCHEN_ONLY)
    kitchen = load_figures().rooms["Kitchen"]
    for kind in ("Cabinet", "Drawer", "CounterTop", "StoveBurner"):
        games_with = dict(kitchen.receptacles[kind].items())
        official = sum(n * weight for n, weight in games_with.items()) / sum(games_with.values())
        drawn = mean(sum(r.kind == kind for r in game.receptacles) for game in sample)
        assert drawn == pytest.approx(official, rel=0.15)
    cabinets = [r.openable for game in sample for r in game.receptacles if r.kind == "Cabinet"]
    assert mean(cabinets) == pytest.approx(kitchen.openable["Cabinet"], abs=0.05)
    others = [game for game in sample if game.goal.object_kind != "Knife"]
    knives = Counter(
        game.receptacles[i.receptacle or 0].kind for game in others for i in game.items if i.kind == "Knife"
    )
    assert knives.most_common(1)[0][0] == "CounterTop"


# -- the source --------------------------------------------------------------------------------------------------------


def test_sources_are_as_long_as_promised() -> None:
    assert [len(GeneratedGames(split)) for split in SPLITS] == [1_000_000, 1_000, 1_000]
    assert len(GeneratedGames("train", count=7)) == 7
    assert len(list(GeneratedGames("train", "tiny", count=7))) == 7


@given(index=st.integers(0, 999_999), size=st.sampled_from(list(SIZES)))
def test_ids_round_trip_without_scanning(index: int, size: str) -> None:
    source = GeneratedGames("train", size)
    id_ = source.task_id(index)
    assert source.index_of(id_) == index
    assert source.game(id_).id == id_ == source[index].id


def test_ids_of_restricted_sources_name_their_task_types() -> None:
    source = GeneratedGames("valid_unseen", "tiny", task_types=KITCHEN_ONLY)
    assert source.task_id(17) == "tiny-valid_unseen-heat+cool-000017"
    assert source.game(source.task_id(17)).task_type in KITCHEN_ONLY
    assert GeneratedGames("train", "tiny").task_id(-1) == "tiny-train-999999"
    assert GeneratedGames("train", "tiny", tuple(reversed(TASK_TYPES))).task_id(0) == "tiny-train-000000"


@pytest.mark.parametrize(
    "id_",
    [
        "",
        "tiny-train",
        "tiny-train-1",
        "tiny-train-000010",
        "small-train-000001",
        "tiny-train-heat-000001",
        "tiny-train-00000٣",
    ],
)
def test_ids_of_other_sources_are_refused_with_the_range_of_this_one(id_: str) -> None:
    with pytest.raises(UnknownIdError, match=r"tiny-train-000000.*tiny-train-000009"):
        GeneratedGames("train", "tiny", count=10).game(id_)


def test_an_index_past_the_end_is_an_index_error() -> None:
    with pytest.raises(IndexError):
        GeneratedGames("train", "tiny", count=10)[10]


@pytest.mark.parametrize(
    "wrong", [{"split": "test"}, {"size": "huge"}, {"task_types": ["pick_up"]}, {"task_types": []}]
)
def test_unknown_names_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UnknownIdError, match="Known"):
        GeneratedGames(**wrong)  # type: ignore[arg-type]
