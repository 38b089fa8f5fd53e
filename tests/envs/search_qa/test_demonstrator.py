"""A policy that answers by what it reads, and by nothing else."""

import random
from typing import Any

import pytest

from agent_gym.envs.search_qa import SearchQAEnv
from agent_gym.envs.search_qa.asking import understand
from agent_gym.envs.search_qa.demonstrator import find_out
from agent_gym.tools.syntax import SYNTAXES


def play(env: SearchQAEnv, seed: int) -> tuple[dict[str, Any], int]:
    """Let it play; return the last info and the number of turns."""
    observation, info = env.reset(seed=seed)
    policy = env.demonstrate(observation, random.Random(0))
    assert policy is not None
    action, turns, ended = next(policy), 0, False
    while not ended:
        observation, _, terminated, truncated, info = env.step(action)
        turns, ended = turns + 1, terminated or truncated
        if not ended:
            action = policy.send(observation)
    return dict(info), turns


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_it_answers_every_question_right_in_every_syntax(syntax: str) -> None:
    env = SearchQAEnv(syntax=syntax, split="valid")
    results = [play(env, seed) for seed in range(30)]
    assert all(info["success"] for info, _ in results)
    assert max(turns for _, turns in results) <= env.max_turns


def test_it_reads_the_page_where_a_search_shows_too_little() -> None:
    env = SearchQAEnv(hit_characters=30, hops=1)
    results = [play(env, seed) for seed in range(20)]
    assert all(info["success"] for info, _ in results)
    assert all(turns == 3 for _, turns in results)


def test_it_believes_what_it_reads() -> None:
    env = SearchQAEnv()
    asked = understand("Who wrote The Blue Door?")
    assert asked is not None
    policy = find_out(asked, env)
    assert "The Blue Door" in next(policy)
    assert policy.send("1. The Blue Door\n   The author of The Blue Door is Mara Feld. It") == (
        "<answer>Mara Feld</answer>"
    )


def test_where_nothing_is_found_it_says_so() -> None:
    env = SearchQAEnv()
    asked = understand("Who wrote The Blue Door?")
    assert asked is not None
    policy = find_out(asked, env)
    next(policy)
    assert "browse" in policy.send("Nothing was found.")
    assert policy.send("There is no page 'The Blue Door'.") == "<answer>unknown</answer>"
