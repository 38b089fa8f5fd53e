"""Groups of episodes: order, concurrency, seeds, failures."""

import random
from typing import Any

import pytest
from helpers import CountEnv, WordEnv, run

from agent_gym.engines.base import Sampling
from agent_gym.engines.scripted import ScriptedEngine
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.env import State, Task
from agent_gym.errors import MissingExtraError
from agent_gym.rollout.actions import syntax
from agent_gym.rollout.branching import BranchPlan, grow_groups
from agent_gym.rollout.chat import ByteChat, TemplateChat
from agent_gym.rollout.collect import Collector, Job
from agent_gym.rollout.episode import EpisodeSettings
from agent_gym.rollout.player import act_at_random, play
from agent_gym.trajectory import Trajectory

SETTINGS = EpisodeSettings(Sampling(max_tokens=8))


def word(new: str) -> str:
    """Answer with the last word of what is new."""
    return new.split()[-1]


def collector(make_env: Any = WordEnv, answers: Any = word, **values: Any) -> Collector:
    return Collector(make_env, ScriptedEngine(answers), ByteChat(), SETTINGS, **values)


def test_results_have_the_order_of_the_jobs_and_all_are_reported() -> None:
    words = ["dish", "apple", "dish", "bread", "chair"] * 5
    jobs = [Job(f"job{number}", "group", task, number) for number, task in enumerate(words)]
    reported: list[Trajectory] = []
    done = run(collector(concurrency=4, env_id="word").play(jobs, reported.append))
    assert [trajectory.task_id for trajectory in done] == words
    assert [trajectory.id for trajectory in done] == [job.id for job in jobs]
    assert all(trajectory.success and trajectory.env_id == "word" for trajectory in done)
    assert sorted(trajectory.id for trajectory in reported) == sorted(job.id for job in jobs)
    assert run(collector().play([])) == []


def test_no_more_environments_are_made_than_are_in_flight_and_they_are_used_again() -> None:
    made: list[CountEnv] = []

    def make() -> CountEnv:
        made.append(CountEnv())
        return made[-1]

    playing = collector(make, ["up"], concurrency=3)
    for _ in range(2):
        run(playing.play([Job(str(number), "g", None, number) for number in range(10)]))
    assert 1 <= len(made) <= 3
    playing.close()
    assert all(env.closed for env in made)


def test_groups_have_ids_sizes_and_members_of_one_task() -> None:
    groups = run(collector().groups(["apple", "dish"], size=3, seed=1, prefix="s0"))
    assert [(group.id, group.task_id, len(group.trajectories)) for group in groups] == [
        ("s0g0", "apple", 3),
        ("s0g1", "dish", 3),
    ]
    ids = [trajectory.id for group in groups for trajectory in group.trajectories]
    assert len(set(ids)) == 6 and all(id_.startswith("s0g") for id_ in ids)
    assert all(trajectory.group_id == group.id for group in groups for trajectory in group.trajectories)


def test_members_of_a_group_begin_alike_even_when_its_seed_chooses_the_task(tokenizer: Any, model: Any) -> None:
    engine = TransformersEngine(model, tokenizer)
    playing = Collector(lambda: CountEnv(max_turns=2), engine, TemplateChat(tokenizer), SETTINGS)
    groups = run(playing.groups([None] * 6, size=4, seed=2))
    for group in groups:
        assert {trajectory.task_id for trajectory in group.trajectories} == {group.task_id}
        assert len({trajectory.turns[0].observation for trajectory in group.trajectories}) == 1
        assert len({trajectory.turns[0].text for trajectory in group.trajectories}) > 1
        assert len({trajectory.seed for trajectory in group.trajectories}) == 4
    assert len({group.task_id for group in groups}) > 1


def test_concurrency_changes_no_token(tokenizer: Any, model: Any) -> None:
    def play(concurrency: int) -> list[list[int]]:
        engine = TransformersEngine(model, tokenizer)
        playing = Collector(
            lambda: CountEnv(max_turns=4), engine, TemplateChat(tokenizer), SETTINGS, concurrency=concurrency
        )
        groups = run(playing.groups(["count 1", "count 2", "count 3"], size=4, seed=5))
        return [trajectory.token_ids for group in groups for trajectory in group.trajectories]

    assert play(1) == play(5) == play(64)


def test_a_failing_environment_is_replaced_and_its_siblings_go_on() -> None:
    made: list[CountEnv] = []

    def make() -> CountEnv:
        made.append(CountEnv())
        return made[-1]

    answers = iter(["crash"] + ["up"] * 1000)
    playing = collector(make, lambda new: next(answers), concurrency=2)
    [group] = run(playing.groups(["count 1"], size=6, seed=0))
    failed = [trajectory for trajectory in group.trajectories if trajectory.error]
    assert len(failed) == 1 and len(group.valid) == 5
    assert all(trajectory.success for trajectory in group.valid) and group.success_rate == 1.0
    assert [env.closed for env in made].count(True) == 1


class Bare(WordEnv):
    """Notices with its first episode that a package is missing."""

    def _start(self, task: Task, rng: random.Random) -> tuple[str, State]:
        raise MissingExtraError.of("bare", "Bare")


@pytest.mark.parametrize("way", ["alone", "branching", "a policy"])
def test_what_is_not_installed_is_no_failure_of_episodes_but_an_error(way: str) -> None:
    with pytest.raises(MissingExtraError, match=r"^Bare needs an optional dependency: run pip install .*\.$"):
        if way == "alone":
            run(collector(Bare).play([Job(str(number), "g", None, number) for number in range(3)]))
        elif way == "branching":
            plan = BranchPlan(4, initial=2, measure=sum, probability=lambda *_: 0.5)
            run(grow_groups(collector(Bare), [None] * 2, plan, seed=0))
        else:
            play(Bare(), act_at_random, ByteChat(), syntax("plain"), SETTINGS, seed=0)


def test_concurrency_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        collector(concurrency=0)
