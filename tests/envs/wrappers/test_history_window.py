"""The last turns above each observation."""

import pytest
from helpers import CountEnv

from agent_gym.envs.wrappers import HistoryWindow


def numbers(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("[", ">"))]


def test_the_window_shows_the_last_turns_and_no_more() -> None:
    bare, env = CountEnv(), HistoryWindow(CountEnv(), turns=2)
    said = [bare.reset(seed=1)[0], *(bare.step(action)[0] for action in ("up", "down", "nonsense"))]
    assert env.reset(seed=1)[0] == said[0]
    assert env.step("up")[0] == f"Goal: count to 3.\nEarlier:\n[0] {said[0]}\n> up\n[1] {said[1]}"
    env.step("down")
    assert numbers(env.step("nonsense")[0]) == [
        f"[1] {said[1]}", "> down", f"[2] {said[2]}", "> nonsense", f"[3] {said[3]}",
    ]  # fmt: skip


def test_a_reset_forgets_the_episode_before() -> None:
    env = HistoryWindow(CountEnv())
    env.reset(seed=1)
    env.step("up")
    assert "Earlier" not in env.reset(seed=1)[0]
    assert numbers(env.step("down")[0])[1] == "> down"


def test_a_fork_remembers_and_then_goes_its_own_way() -> None:
    env = HistoryWindow(CountEnv(), turns=3)
    env.reset(seed=1)
    env.step("up")
    child = env.fork()
    assert "> down" in child.step("down")[0]
    assert numbers(env.step("up")[0])[1::2] == ["> up", "> up"]
    assert numbers(child.step("up")[0])[1::2] == ["> up", "> down", "> up"]


def test_a_window_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        HistoryWindow(CountEnv(), turns=0)
