"""Games of TextArena: what the agent is told, what it is paid, and that a game keeps to itself."""

import builtins
import random
import re
import sys
from typing import Any

import numpy as np
import pytest

from agent_gym.envs.conformance import CHECKS, conform
from agent_gym.envs.textarena import TextArenaEnv
from agent_gym.errors import ConfigError, EpisodeEnded, MissingExtraError, UnknownIdError

ta = pytest.importorskip("textarena")


def taker_of_the_first_cell(told: str) -> str:
    """Plays TicTacToe: the first of the moves that were offered last."""
    return re.findall(r"'(\[\d\])'", told.rpartition("Available Moves:")[2])[0]


def guess(env: TextArenaEnv) -> list[tuple[str, float, bool, Any]]:
    """Find the number by halving."""
    low, high, turns = 1, 20, []
    env.reset(seed=5)
    while not turns or not turns[-1][2]:
        middle = (low + high) // 2
        observation, reward, terminated, _, info = env.step(f"[{middle}]")
        turns.append((observation, reward, terminated, info))
        low, high = (middle + 1, high) if "higher" in observation else (low, middle - 1)
    return turns


@pytest.mark.parametrize(
    "make",
    [
        TextArenaEnv,
        lambda: TextArenaEnv("TowerOfHanoi-v0"),
        lambda: TextArenaEnv("Minesweeper-v0"),
        lambda: TextArenaEnv("Blackjack-v0"),
        lambda: TextArenaEnv("Countdown-v0"),
        lambda: TextArenaEnv("ThreeCardMonte-v0"),
        lambda: TextArenaEnv("TicTacToe-v0", opponent=taker_of_the_first_cell),
        lambda: TextArenaEnv("KuhnPoker-v0", opponent=lambda told: "[check]"),
    ],
)
def test_games_pass_every_check(make: Any) -> None:
    found = {check.name: check for check in conform(make)}
    assert list(found) == list(CHECKS)
    assert {name: check.detail for name, check in found.items() if check.passed is False} == {}


def test_a_win_is_paid_and_said() -> None:
    turns = guess(TextArenaEnv())
    *before, (observation, reward, _, info) = turns
    assert observation == "[GAME] Congratulations! You guessed the correct number."
    assert (reward, info["success"], info["score"]) == (1.0, True, 1.0)
    assert all((reward, info["success"]) == (0.0, False) for _, reward, _, info in before)


def test_an_observation_is_what_is_new_without_the_agents_own_words() -> None:
    env = TextArenaEnv()
    first, info = env.reset(options={"task": "GuessTheNumber-v0/seed-7"})
    assert first.startswith("[GAME] You are Player 0. You are playing Guess The Number.")
    second = env.step("I say [3] and not [4]")[0]
    assert re.fullmatch(r"\[GAME\] The target number is (higher|lower)\.", second)
    assert info["goal"] == "Win the game GuessTheNumber-v0."


def test_an_invalid_move_is_an_observation_and_the_second_ends_the_game() -> None:
    env = TextArenaEnv()
    env.reset(seed=0)
    observation, reward, terminated, _, info = env.step("[99]")
    assert "invalid move" in observation and info["invalid_action"] and not terminated and reward == 0
    _, _, terminated, _, info = env.step("nonsense")
    assert terminated and info["invalid_action"] and not info["success"]


def test_a_valid_move_after_an_invalid_one_is_valid() -> None:
    env = TextArenaEnv(min_number=1, max_number=10_000)
    env.reset(seed=0)
    env.step("nonsense")
    assert env.step("[5]")[4]["invalid_action"] is False


def test_the_part_of_the_way_is_a_score_but_no_success() -> None:
    env = TextArenaEnv("Blackjack-v0", num_hands=2)
    env.reset(seed=3)
    ended = False
    while not ended:
        _, reward, ended, _, info = env.step("[stand]")
    assert 0 <= reward == info["score"] <= 1
    assert info["success"] == (reward == 1)


def test_a_loss_is_paid_below_zero_and_scores_zero() -> None:
    env = TextArenaEnv("TicTacToe-v0", opponent=taker_of_the_first_cell)
    env.reset(seed=0)
    for move in ("[3]", "[8]", "[5]"):
        observation, reward, terminated, _, info = env.step(move)
    assert terminated and reward == -1 and info["score"] == 0 and not info["success"]
    assert "[Player 1]" in observation


def test_an_opponent_hears_the_rules_and_everything_since() -> None:
    heard: list[str] = []

    def listen(told: str) -> str:
        heard.append(told)
        return taker_of_the_first_cell(told)

    env = TextArenaEnv("TicTacToe-v0", opponent=listen)
    env.reset(seed=0)
    env.step("[4]")
    env.step("[5]")
    assert heard[0].startswith("[GAME] You are Player 1") and "in cell 4" in heard[0]
    assert heard[1].startswith(heard[0])


def test_a_fork_does_not_ask_the_opponent_again() -> None:
    asked: list[str] = []

    def count(told: str) -> str:
        asked.append(told)
        return taker_of_the_first_cell(told)

    env = TextArenaEnv("TicTacToe-v0", opponent=count)
    env.reset(seed=0)
    env.step("[4]")
    child = env.fork()
    assert len(asked) == 1
    assert child.step("[5]") == env.step("[5]")


def test_a_game_with_other_players_needs_an_opponent() -> None:
    with pytest.raises(ConfigError, match="TicTacToe-v0 has 2 players: give opponent="):
        TextArenaEnv("TicTacToe-v0")


def test_an_opponent_that_gets_nowhere_is_an_error() -> None:
    env = TextArenaEnv("TicTacToe-v0", opponent=lambda told: "[0]")
    env.reset(seed=0)
    table = env._playing()
    table.act = lambda action: None  # type: ignore[method-assign]
    table._state.current_player_id = 1
    with pytest.raises(ConfigError, match="1000 moves in a row"):
        env.step("[4]")


def test_the_seed_of_the_task_decides_the_game_whatever_was_played_before() -> None:
    def number(env: TextArenaEnv, task: str) -> int:
        env.reset(options={"task": task})
        return int(env._playing()._state.game_state["game_number"])

    env = TextArenaEnv(max_number=10**6)
    ids = [task.id for split in env.splits for task in env.tasks(split)[:3]]
    once = [number(env, id_) for id_ in ids]
    random.seed(1)
    assert [number(TextArenaEnv(max_number=10**6), id_) for id_ in reversed(ids)] == once[::-1]
    assert len(set(once)) == len(ids)


def test_two_games_with_dice_do_not_disturb_each_other_or_the_process() -> None:
    def play(env: TextArenaEnv) -> Any:
        yield env.reset(seed=2)[0]
        for _ in range(4):
            yield env.step("[hit]")[0]

    alone = list(play(TextArenaEnv("Blackjack-v0")))
    before = random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    pairs = zip(play(TextArenaEnv("Blackjack-v0")), play(TextArenaEnv("Blackjack-v0")), strict=True)
    assert [(one, one) for one in alone] == list(pairs)
    assert (random.getstate(), repr(np.random.get_state())) == before  # noqa: NPY002


def test_games_do_not_print(capsys: pytest.CaptureFixture[str]) -> None:
    env = TextArenaEnv("LogicPuzzle-v0")
    env.reset(seed=0)
    env.step("[wrong]")
    assert capsys.readouterr().out == ""


def test_a_word_game_never_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    nltk = pytest.importorskip("nltk")
    calls: list[Any] = []
    download = lambda *arguments, **options: calls.append(arguments)  # noqa: E731
    monkeypatch.setattr(nltk, "download", download)
    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(ConfigError, match=r"needs word lists .* python -m nltk\.downloader words"):
        TextArenaEnv("Hangman-v0")
    assert calls == [] and nltk.download is download


def test_a_game_that_raises_is_answered_with_an_observation() -> None:
    env = TextArenaEnv()
    env.reset(seed=0)

    def fail(action: str) -> None:
        raise IndexError(action)

    env._playing()._game.step = fail
    observation, _, terminated, _, info = env.step("[5]")
    assert "not understood (IndexError)" in observation and info["invalid_action"] and not terminated


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"game": "GuessTheNumbr-v0"}, UnknownIdError, "did you mean 'GuessTheNumber-v0'"),
        ({"colour": "red"}, ConfigError, "cannot make the game GuessTheNumber-v0 .*colour"),
        ({"players": 3}, ConfigError, "received 3.*check players="),
        ({"split": "dev"}, UnknownIdError, "split"),
        ({"size": 0}, ConfigError, "size must be from 1 to 1,000,000"),
    ],
)
def test_mistakes_are_errors_with_the_remedy(arguments: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        TextArenaEnv(**arguments)


@pytest.mark.parametrize(
    "id_", ["GuessTheNumber-v0/seed-3000000", "seed-1", "Nim-v0/seed-1", "GuessTheNumber-v0/seed-01"]
)
def test_an_unknown_task_is_refused(id_: str) -> None:
    with pytest.raises(UnknownIdError, match="there are 1,000,000 a split"):
        TextArenaEnv().find_task(id_)


def test_the_splits_are_disjoint_and_as_large_as_asked() -> None:
    env = TextArenaEnv(size=5)
    ids = {split: {task.id for task in env.tasks(split)} for split in env.splits}
    assert [len(found) for found in ids.values()] == [5, 5, 5] and len(set.union(*ids.values())) == 15
    with pytest.raises(UnknownIdError):
        env.find_task("GuessTheNumber-v0/seed-5")


def test_a_step_before_the_first_reset_is_refused() -> None:
    with pytest.raises(EpisodeEnded):
        TextArenaEnv()._act("[5]")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "textarena":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "textarena")
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"agent-gym\[textarena\]"):
        TextArenaEnv()
