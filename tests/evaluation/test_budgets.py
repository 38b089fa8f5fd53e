"""Counting what an evaluation uses up."""

import pytest

from agent_gym.config import LimitsSection
from agent_gym.errors import ConfigError
from agent_gym.evaluation.budgets import Budget, UsedUp
from agent_gym.rollout.collect import Job
from agent_gym.trajectory import Trajectory, Turn

JOBS = [Job(f"{n}", f"{n}", None, n) for n in range(5)]


def episode(prompt: int, generated: int, cost: float | None = None, *, ids: int = 0) -> Trajectory:
    turn = Turn("o", "t", "a", 0, ids, prompt_tokens=prompt, generated_tokens=generated)
    return Trajectory("task", turns=[turn], metadata={} if cost is None else {"cost": str(cost)})


def test_what_earlier_sittings_used_up_counts_and_the_server_counts_better_than_the_ids() -> None:
    budget = Budget(LimitsSection(tokens=100), tokens=60)
    budget.count(episode(10, 5, ids=3))
    assert budget.tokens == 75 and budget.used_up is None
    budget.count(episode(20, 0, ids=5))
    assert budget.used_up == UsedUp("tokens", "100 of 100 tokens", 200)


def test_jobs_are_admitted_one_by_one_until_something_is_used_up() -> None:
    budget, admitted = Budget(LimitsSection(cost=1.0)), []
    for job in budget.admit(JOBS):
        admitted.append(job.id)
        budget.count(episode(1, 1, 0.4))
    assert admitted == ["0", "1", "2"] and budget.used_up is not None
    assert (budget.used_up.limit, budget.used_up.words) == ("cost", "1.20 of 1.00 dollars")
    assert list(budget.admit(JOBS)) == []


def test_seconds_are_those_of_the_sitting() -> None:
    now = 100.0
    budget = Budget(LimitsSection(seconds=5), clock=lambda: now)
    assert budget.seconds_left == 5 and not budget.used_up
    now = 104.0
    assert budget.seconds_left == 1
    now = 110.0
    assert budget.seconds_left == 0 and budget.used_up == UsedUp("seconds", "5 seconds", 10)
    assert Budget(LimitsSection()).seconds_left is None


def test_a_price_that_is_not_known_is_no_price_of_nothing() -> None:
    with pytest.raises(ConfigError, match="qwen does not say what it costs"):
        unknown = episode(1, 1)
        unknown.metadata["model"] = "qwen"
        Budget(LimitsSection(cost=1.0)).check(unknown)
    unknown.metadata["token_counts"] = "estimated from bytes"
    with pytest.raises(ConfigError, match="the server of qwen does not say how many tokens"):
        Budget(LimitsSection(cost=1.0)).check(unknown)
    # An episode that failed before its first turn says nothing about prices.
    Budget(LimitsSection(cost=1.0)).check(Trajectory("task", error="EngineError: gone"))
