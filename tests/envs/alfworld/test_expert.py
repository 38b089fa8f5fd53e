"""The exploring player: it wins by what it is told, with admissible commands, and wastes few of them."""

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, product

import pytest

from agent_gym.envs.alfworld.engine import Simulator
from agent_gym.envs.alfworld.expert import Task, explore, understand
from agent_gym.envs.alfworld.games import SIZES, SPLITS, generate
from agent_gym.envs.alfworld.scene import TASK_TYPES, Game


def play(game: Game, seed: int = 0) -> Iterator[tuple[str, Simulator]]:
    """Let the player play until it wins or gives up; yield each command before it is carried out."""
    simulator = Simulator(game)
    player = explore(game.objective, simulator.start(), random.Random(seed))
    command = next(player)
    while not simulator.won:
        yield command, simulator
        answer = simulator.step(command)
        try:
            command = player.send(answer)
        except StopIteration:
            return


@pytest.mark.parametrize(("size", "split", "task_type"), [*product(("tiny", "small"), SPLITS, TASK_TYPES)])
def test_wins_every_small_game_within_fifty_turns(size: str, split: str, task_type: str) -> None:
    for seed in range(8):
        game = generate(seed, split=split, size=size, task_types=(task_type,))
        turns = [simulator for _, simulator in play(game, seed)]
        assert turns[-1].won, game.id
        assert len(turns) <= 50, game.id


@pytest.mark.parametrize(("size", "task_type"), [*product(("medium", "official"), TASK_TYPES)])
def test_wins_larger_games_too(size: str, task_type: str) -> None:
    for seed in range(8):
        turns = [simulator for _, simulator in play(generate(seed, size=size, task_types=(task_type,)), seed)]
        assert turns[-1].won


@pytest.mark.parametrize("size", SIZES)
def test_every_command_is_admissible(size: str) -> None:
    for seed in range(30):
        for command, simulator in play(generate(seed, size=size), seed):
            assert command in simulator.admissible()


def test_opens_nothing_twice_and_never_goes_where_it_stands() -> None:
    for seed in range(200):
        commands = [command for command, _ in play(generate(seed, size="small"), seed)]
        opened = [command for command in commands if command.startswith("open ")]
        assert len(set(opened)) == len(opened)
        went = [command for command in commands if command.startswith("go to ")]
        assert all(here != there for here, there in pairwise(went))


def test_knows_nothing_that_it_has_not_seen() -> None:
    for seed in range(200):
        game = generate(seed, size="small")
        everything = [item.name for item in game.items] + [receptacle.name for receptacle in game.receptacles]
        simulator = Simulator(game)
        heard = simulator.start()
        player = explore(game.objective, heard, random.Random(seed))
        command = next(player)
        while True:
            names = [name for name in everything if f"{name} " in f"{command} "]
            assert names
            assert all(name in heard for name in names)
            answer = simulator.step(command)
            if simulator.won:
                break
            heard += answer
            command = player.send(answer)


def test_the_same_generator_gives_the_same_episode_and_another_one_another() -> None:
    game = generate(5, size="small")
    episodes = [tuple(command for command, _ in play(game, seed)) for seed in (1, 1, *range(2, 12))]
    assert episodes[0] == episodes[1]
    assert len(set(episodes)) > 3


def test_gives_up_where_the_object_is_missing() -> None:
    room = "You are in the middle of a room. Looking quickly around you, you see a shelf 1.\n\nYour task is to: x."
    player = explore("put a apple in fridge", room, random.Random(0))
    assert next(player) == "go to shelf 1"
    with pytest.raises(StopIteration) as end:
        player.send("You arrive at shelf 1. On the shelf 1, you see nothing.")
    assert end.value.value is False


def test_examines_a_place_that_is_reached_from_the_spot_where_it_stands() -> None:
    game = generate(3, size="small", task_types=("pick_two_obj_and_place",))
    shared = replace(
        game,
        receptacles=tuple(replace(r, location=(r.location + 1) // 2) for r in game.receptacles),
        items=tuple(replace(i, location=((i.location or 0) + 1) // 2) for i in game.items),
    )
    for seed in range(10):
        turns = list(play(shared, seed))
        assert turns[-1][1].won
        assert len(turns) <= 50
    assert any(command.startswith("examine ") for seed in range(10) for command, _ in play(shared, seed))


@pytest.mark.parametrize(
    ("objective", "task"),
    [
        ("look at mug under the desklamp", Task("mug", lamp="desklamp")),
        ("examine the mug with the desklamp", Task("mug", lamp="desklamp")),
        ("put a mug in shelf", Task("mug", "shelf")),
        ("put some mug on shelf", Task("mug", "shelf")),
        ("put a clean mug in shelf", Task("mug", "shelf", verb="clean", appliance="sinkbasin")),
        ("heat some mug and put it in shelf", Task("mug", "shelf", verb="heat", appliance="microwave")),
        ("put a hot mug in shelf", Task("mug", "shelf", verb="heat", appliance="microwave")),
        ("put a cool mug in shelf", Task("mug", "shelf", verb="cool", appliance="fridge")),
        ("put two mug in shelf", Task("mug", "shelf", copies=2)),
        ("find two mug and put them in shelf", Task("mug", "shelf", copies=2)),
        ("sing a song", None),
    ],
)
def test_understands_both_sentences_of_every_task_type(objective: str, task: Task | None) -> None:
    assert understand(objective) == task
