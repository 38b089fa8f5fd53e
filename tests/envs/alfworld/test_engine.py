"""The simulator speaks word for word like the official engine, and copies of it go their own ways."""

import json
import lzma
import pickle
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent_gym.envs.alfworld.engine import NOTHING_HAPPENS, Simulator
from agent_gym.envs.alfworld.games import generate
from agent_gym.envs.alfworld.loading import GameLibrary, load_games
from agent_gym.envs.alfworld.scene import TASK_TYPES, Game, Goal, Item, Receptacle

GOLDEN = Path(__file__).parents[2] / "golden" / "alfworld"
OFFICIAL = Path(__file__).parents[4] / "shared" / "data"
WELCOME = "-= Welcome to TextWorld, ALFRED! =-\n\n"

needs_official_games = pytest.mark.skipif(
    not (OFFICIAL / "alfworld_traces.json.xz").is_file(), reason=f"no recorded official walks in {OFFICIAL}"
)


def read(path: Path) -> Any:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return json.load(file)


def replay(walk: dict[str, Any], library: GameLibrary) -> None:
    """Play the commands of an official walk and compare everything that the official engine said."""
    simulator = Simulator(library[library.index_of(walk["game"])])
    assert WELCOME + simulator.start() == walk["start"]["obs"]
    assert simulator.admissible() == walk["start"]["admissible"]
    for turn in walk["turns"]:
        assert simulator.step(turn["action"]) == turn["obs"], turn["action"]
        assert simulator.admissible() == turn["admissible"], turn["action"]
        assert (simulator.won, simulator.won, float(simulator.won)) == (turn["won"], turn["done"], turn["reward"])
        assert simulator.invalid == (turn["obs"] == NOTHING_HAPPENS)


def household(**changes: Any) -> Game:
    """A kitchen with all appliances, an apple, a knife and a fork in a pot."""
    able = frozenset({"pickupable", "cleanable", "heatable", "coolable", "sliceable"})
    game = Game(
        id="kitchen",
        split="train",
        objective="put a hot apple in countertop",
        goal=Goal("pick_heat_then_place_in_recep", "Apple", "CounterTop"),
        receptacles=(
            Receptacle("cabinet 1", "Cabinet", 1, openable=True),
            Receptacle("countertop 1", "CounterTop", 1),
            Receptacle("fridge 1", "Fridge", 2, openable=True),
            Receptacle("microwave 1", "Microwave", 3, openable=True),
            Receptacle("sinkbasin 1", "SinkBasin", 4),
        ),
        items=(
            Item("apple 2", "Apple", 2, 2, able, frozenset({"iscool"})),
            Item("apple 1", "Apple", 1, 1, able),
            Item("fork 1", "Fork", 4, 4, frozenset({"pickupable", "cleanable"}), inside=(4,)),
            Item("knife 1", "Knife", 4, 4, frozenset({"pickupable", "cleanable"})),
            Item("pot 1", "Pot", 4, 4, frozenset({"pickupable", "cleanable", "isreceptacleobject"})),
        ),
        start_location=0,
        can_contain=frozenset({("CounterTop", "Apple"), ("Cabinet", "Apple"), ("CounterTop", "Knife")}),
        walkthrough=(),
    )
    return replace(game, **changes)


def play(simulator: Simulator, *commands: str) -> list[str]:
    return [simulator.step(command) for command in commands]


@pytest.mark.parametrize("index", range(11))
def test_recorded_official_walks_replay_without_one_differing_character(index: int) -> None:
    walks = read(GOLDEN / "traces.json.xz")
    assert len(walks) == 11
    replay(walks[index], load_games(GOLDEN / "games.json.xz"))


@needs_official_games
def test_all_official_walks_at_hand_replay_without_one_differing_character() -> None:
    library = load_games(OFFICIAL / "alfworld_games.json.xz")
    for walk in read(OFFICIAL / "alfworld_traces.json.xz"):
        replay(walk, library)


@needs_official_games
def test_official_walkthroughs_win_at_their_last_command() -> None:
    library = load_games(OFFICIAL / "alfworld_games.json.xz")
    for index in random.Random(0).sample(range(len(library)), 200):
        simulator = Simulator(library[index])
        wins = [simulator.won, *(simulator.step(command) and simulator.won for command in library[index].walkthrough)]
        assert wins == [False] * (len(wins) - 1) + [True], library.task_id(index)


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_generated_walkthroughs_win_by_admissible_commands(task_type: str) -> None:
    for seed in range(20):
        game = generate(seed, size="small", task_types=[task_type])
        simulator = Simulator(game)
        for command in game.walkthrough:
            assert command in simulator.admissible()
            simulator.step(command)
        assert simulator.won


@pytest.mark.parametrize("dialect", ["move", "put"])
def test_exactly_the_admissible_commands_are_understood(dialect: str) -> None:
    for seed in range(6):
        simulator = Simulator(replace(generate(seed, size="small"), dialect=dialect))
        rng = random.Random(seed)
        vocabulary = set(simulator.admissible())
        for _ in range(60):
            admissible = simulator.admissible()
            vocabulary |= set(admissible)
            assert admissible == sorted(set(admissible))
            for command in vocabulary:
                trial = simulator.copy()
                answer = trial.step(command)
                assert (command not in admissible) == trial.invalid == (answer == NOTHING_HAPPENS)
            simulator.step(rng.choice(admissible))


def test_start_begins_anew() -> None:
    simulator = Simulator(household())
    first = simulator.start()
    play(simulator, "go to countertop 1", "take apple 1 from countertop 1")
    assert simulator.start() == first
    assert simulator.step("inventory") == "You are not carrying anything."


def test_an_invalid_command_changes_nothing() -> None:
    simulator = Simulator(household())
    before = simulator.admissible()
    for command in (
        "",
        " ",
        "go",
        "go to",
        "go to cabinet 9",
        "GO TO CABINET 1",
        "look around",
        "take",
        "\x00",
        "é" * 9,
    ):
        assert simulator.step(command) == NOTHING_HAPPENS
        assert simulator.invalid
    assert simulator.admissible() == before


def test_white_space_around_a_command_is_ignored_and_inside_it_is_not() -> None:
    simulator = Simulator(household())
    assert simulator.step("\t look \n").startswith("You are in the middle of a room.")
    assert simulator.step("go  to cabinet 1") == NOTHING_HAPPENS


def test_an_agent_that_starts_at_a_receptacle_faces_it() -> None:
    first = Simulator(household(start_location=1)).start()
    assert first.startswith("You are facing the cabinet 1, and countertop 1. Next to it, you see nothing.")


def test_heating_cooling_cleaning_and_slicing_change_what_examine_says() -> None:
    simulator = Simulator(household())
    play(simulator, "go to sinkbasin 1", "take knife 1 from sinkbasin 1", "go to countertop 1")
    assert simulator.step("slice apple 1 with knife 1") == "You sliced the apple 1 with the knife 1."
    play(simulator, "move knife 1 to countertop 1", "take apple 1 from countertop 1", "go to microwave 1")
    assert simulator.step("heat apple 1 with microwave 1") == "You heat the apple 1 using the microwave 1."
    assert simulator.step("examine apple 1") == "This is a hot sliced apple 1."
    play(simulator, "go to sinkbasin 1", "clean apple 1 with sinkbasin 1")
    assert simulator.step("examine apple 1") == "This is a hot and clean sliced apple 1."
    play(simulator, "go to fridge 1", "cool apple 1 with fridge 1")
    assert simulator.step("examine apple 1") == "This is a cool and clean sliced apple 1."


def test_a_cool_thing_alone_is_called_cold() -> None:
    simulator = Simulator(household())
    play(simulator, "go to fridge 1", "open fridge 1", "take apple 2 from fridge 1")
    assert simulator.step("examine apple 2") == "This is a cold apple 2."


def test_examine_shows_what_lies_in_a_pot() -> None:
    simulator = Simulator(household())
    play(simulator, "go to sinkbasin 1", "take pot 1 from sinkbasin 1")
    assert simulator.step("examine pot 1") == "This is a normal pot 1. In it, you see a fork 1."


def test_a_thing_that_lies_in_two_receptacles_stays_in_the_other() -> None:
    game = household()
    apple = replace(game.items[1], receptacle=0, also_in=(1,))
    simulator = Simulator(replace(game, items=(game.items[0], apple, *game.items[2:])))
    play(simulator, "go to countertop 1", "take apple 1 from countertop 1")
    assert (
        simulator.step("open cabinet 1") == "You open the cabinet 1. The cabinet 1 is open. In it, you see a apple 1."
    )


def test_the_goal_can_be_lost_again() -> None:
    simulator = Simulator(household())
    play(simulator, "go to countertop 1", "take apple 1 from countertop 1", "go to microwave 1")
    play(simulator, "heat apple 1 with microwave 1", "go to countertop 1")
    assert not simulator.won
    simulator.step("move apple 1 to countertop 1")
    assert simulator.won
    simulator.step("take apple 1 from countertop 1")
    assert not simulator.won


def test_a_goal_may_ask_for_a_slice() -> None:
    goal = Goal("pick_and_place_simple", "Apple", "CounterTop", sliced=True)
    simulator = Simulator(household(goal=goal))
    play(simulator, "go to sinkbasin 1", "take knife 1 from sinkbasin 1", "go to countertop 1")
    assert not simulator.won
    simulator.step("slice apple 1 with knife 1")
    assert simulator.won


def test_the_put_dialect_speaks_like_the_older_releases() -> None:
    simulator = Simulator(household(dialect="put"))
    play(simulator, "go to countertop 1", "take apple 1 from countertop 1")
    assert "put apple 1 in/on countertop 1" in simulator.admissible()
    assert simulator.step("move apple 1 to countertop 1") == NOTHING_HAPPENS
    assert simulator.step("put apple 1 in/on countertop 1") == "You put the apple 1 in/on the countertop 1."
    assert "\n  put (object) in/on (receptacle):  place" in simulator.step("help")


@pytest.mark.parametrize("verb", ["move apple 1 to countertop 1", "put apple 1 in/on countertop 1"])
def test_the_put_alias_understands_both_verbs(verb: str) -> None:
    simulator = Simulator(household(), put_alias=True)
    play(simulator, "go to countertop 1", "take apple 1 from countertop 1")
    assert simulator.step(verb) == "You move the apple 1 to the countertop 1."


def test_put_is_not_understood_in_a_move_game() -> None:
    simulator = Simulator(household())
    play(simulator, "go to countertop 1", "take apple 1 from countertop 1")
    assert simulator.step("put apple 1 in/on countertop 1") == NOTHING_HAPPENS


def test_a_copy_and_its_original_do_not_disturb_each_other() -> None:
    for seed in range(10):
        rng = random.Random(seed)
        parent = Simulator(generate(seed, size="small"))
        for _ in range(10):
            parent.step(rng.choice(parent.admissible()))
        untouched, child = parent.copy(), parent.copy()
        for _ in range(30):
            child.step(rng.choice(child.admissible()))
        assert parent.admissible() == untouched.admissible()
        for command in ("look", "inventory", *parent.admissible()):
            assert parent.copy().step(command) == untouched.copy().step(command)


def test_a_snapshot_keeps_the_commands_of_its_moment() -> None:
    simulator = Simulator(household())
    moments = []
    for command in ("look", "go to countertop 1", "open cabinet 1", "take apple 1 from countertop 1", "go to fridge 1"):
        simulator.step(command)
        moments.append((simulator.snapshot(), simulator.admissible()))
    assert [snapshot() for snapshot, _ in moments] == [commands for _, commands in moments]
    assert len({tuple(commands) for _, commands in moments}) == 5


def test_a_simulator_can_be_pickled() -> None:
    simulator = Simulator(household())
    play(simulator, "go to countertop 1", "take apple 1 from countertop 1")
    twin = pickle.loads(pickle.dumps(simulator))
    assert twin.step("inventory") == simulator.step("inventory") == "You are carrying: a apple 1."
