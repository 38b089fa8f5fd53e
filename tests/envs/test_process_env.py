"""An environment in a process of its own behaves as it does here, and takes nothing along when it dies."""

import os
import random
import signal

import pytest
from helpers import CountEnv

import agent_gym
from agent_gym.env import TextEnv
from agent_gym.envs.conformance import conform
from agent_gym.envs.process_env import ProcessEnv
from agent_gym.errors import ConfigError, EpisodeEnded, UnknownIdError, WorkerError


def walk(env: TextEnv, actions: list[str], seed: int = 3) -> list[object]:
    answers: list[object] = [(observation := env.reset(seed=seed)), observation[1].copy()]
    for action in actions:
        *rest, info = env.step(action)
        answers += [rest, info.copy()]
    return answers


def test_it_answers_as_the_environment_does_here() -> None:
    actions = ["up", "nonsense", "down", "up", "up", "up"]
    with ProcessEnv("small_envs:CountEnv", max_turns=9) as hosted:
        assert walk(hosted, actions) == walk(CountEnv(max_turns=9), actions)
        assert [task.id for task in hosted.tasks("train")] == [f"count {number}" for number in range(5)]
        assert list(hosted.expert() or ()) == ["up"] * 3


def test_it_passes_the_conformance_suite() -> None:
    made = lambda: agent_gym.make("webshop", worker="process", split="test")  # noqa: E731
    results = {check.name: check for check in conform(made)}
    assert not [check for check in results.values() if not check.passed]


def test_a_demonstrator_acts_in_the_worker_on_what_it_is_sent() -> None:
    options = {"size": "tiny", "max_turns": 30}
    played = []
    for worker in ("inline", "process"):
        env = agent_gym.make("alfworld", worker=worker, **options)
        observation, _ = env.reset(seed=5)
        policy = env.demonstrate(observation, random.Random(0))
        assert policy is not None
        actions, ended, info = [], False, None
        action = next(policy)
        while not ended:
            actions.append(action)
            observation, _, terminated, truncated, info = env.step(action)
            ended = terminated or truncated
            action = "" if ended else policy.send(observation)
        assert info is not None and info["success"]
        played.append(actions)
        env.close()
    assert played[0] == played[1] and len(played[1]) > 1


def test_a_dead_worker_costs_the_episode_and_the_next_reset_starts_another() -> None:
    with ProcessEnv("small_envs:Fragile") as env:
        env.reset(seed=0)
        child = env.fork()
        with pytest.raises(WorkerError, match="has died"):
            env.step("die")
        assert child.step("up")[0].startswith("the number is 1")
        observation, _ = env.reset(seed=0)
        assert observation.startswith("the number is 0") and env.step("up")[0].startswith("the number is 1")
        child.close()


def test_a_hung_environment_is_ended_after_its_time_out() -> None:
    with ProcessEnv("small_envs:Fragile", call_timeout=3.0) as env:
        env.reset(seed=0)
        with pytest.raises(WorkerError, match="did not answer within"):
            env.step("hang")
        env.reset(seed=0)


def test_an_exception_of_the_environment_is_raised_here_and_the_worker_lives_on() -> None:
    with ProcessEnv("small_envs:CountEnv") as env:
        env.reset(seed=0)
        pid = env._worker().pid
        with pytest.raises(RuntimeError, match="the environment broke"):
            env.step("crash")
        env.reset(seed=0)
        assert env._worker().pid == pid


def test_a_worker_killed_between_episodes_is_not_noticed() -> None:
    with ProcessEnv("small_envs:CountEnv") as env:
        env.reset(seed=0)
        worker = env._worker()
        os.kill(worker.pid, signal.SIGKILL)
        while worker.alive:
            os.sched_yield()
        assert env.reset(seed=0)[0].startswith("the number is 0")


def test_it_is_closed_twice_and_used_before_reset_without_harm() -> None:
    env = ProcessEnv("small_envs:CountEnv")
    with pytest.raises(EpisodeEnded):
        env.step("up")
    env.close()
    env.close()


def test_errors_of_making_one_are_those_of_the_environment() -> None:
    with pytest.raises(ConfigError, match="colour"):
        agent_gym.make("alfworld", worker="process", colour="red")
    with pytest.raises(UnknownIdError, match="worker 'proces': did you mean 'process'"):
        agent_gym.make("alfworld", worker="proces")
    with pytest.raises(UnknownIdError, match="size"):
        agent_gym.make("alfworld", worker="process", size="enormous")


def test_a_class_says_that_it_wants_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CountEnv, "isolate", True)
    with agent_gym.make("small_envs:CountEnv") as env:
        assert isinstance(env, ProcessEnv)
    assert isinstance(agent_gym.make("small_envs:CountEnv", worker="inline"), CountEnv)


def test_wrappers_stay_here_around_the_process() -> None:
    wrappers = [{"id": "reward-scaling", "scale": 2.0}]
    with agent_gym.make("small_envs:CountEnv", worker="process", wrappers=wrappers) as env:
        env.reset(seed=0)
        assert sum(env.step("up")[1] for _ in range(3)) == 2.0


def test_a_class_that_only_this_process_has_is_refused() -> None:
    class Local(CountEnv):
        pass

    agent_gym.register("local-count", Local)
    with pytest.raises(ConfigError, match="put the class into a module of its own"):
        agent_gym.make("local-count", worker="process")


def test_what_has_a_process_of_its_own_gets_no_other_around_it() -> None:
    with pytest.raises(ConfigError, match="leave out worker='process'"):
        agent_gym.make("small_envs:Waiting", worker="process")


def test_an_episode_whose_worker_died_does_not_go_on_in_the_next_one() -> None:
    with ProcessEnv("small_envs:CountEnv") as env:
        observation, _ = env.reset(seed=0)
        policy = env.demonstrate(observation, random.Random(0))
        assert policy is not None
        next(policy)
        os.kill(env._worker().pid, signal.SIGKILL)
        while env._worker().pid == env._playing().pid:
            os.sched_yield()
        assert len(env.tasks("train")) == 5
        with pytest.raises(WorkerError):
            env.step("up")
        with pytest.raises(WorkerError):
            policy.send("the number is 1")
        assert env.reset(seed=0)[0] == observation


def test_a_limit_of_turns_that_is_set_later_reaches_the_worker() -> None:
    with ProcessEnv("small_envs:Limited") as env:
        env.max_turns = 7
        assert env.reset(seed=0)[0] == "0 of 7"
        env.max_turns = 8
        assert env.step("up")[0] == "1 of 8"
