"""Environments for many episodes: retried once, replaced, never held up by each other, all closed."""

import asyncio
import threading
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
from helpers import CountEnv, run
from waiting import until

from agent_gym.engines.base import Sampling
from agent_gym.engines.scripted import ScriptedEngine
from agent_gym.envs.process_env import ProcessEnv
from agent_gym.errors import WorkerError
from agent_gym.rollout.chat import ByteChat
from agent_gym.rollout.collect import Collector, Job
from agent_gym.rollout.episode import EpisodeSettings
from agent_gym.rollout.score import score
from agent_gym.rollout.workers import Workers, inline
from agent_gym.trajectory import Trajectory

SETTINGS = EpisodeSettings(Sampling(max_tokens=200))
JOBS = [Job(f"e{number}", "g", "count 0", number) for number in range(4)]


def fragile(seconds: float = 60) -> ProcessEnv:
    return ProcessEnv("small_envs:Fragile", max_turns=6, call_timeout=seconds)


def played(make_env: Any, answers: Any, jobs: list[Job], concurrency: int = 4) -> list[Trajectory]:
    collector = Collector(make_env, ScriptedEngine(answers), ByteChat(), SETTINGS, concurrency=concurrency)
    try:
        return run(collector.play(jobs))  # type: ignore[no-any-return]
    finally:
        collector.close()


def told(trajectory: Trajectory) -> list[Any]:
    return [trajectory.token_ids, trajectory.success, trajectory.reward, trajectory.error, trajectory.final_observation]


@pytest.mark.parametrize("fault", ["die", "hang"])
def test_a_worker_that_dies_or_hangs_once_costs_nothing_but_a_second_try(fault: str, tmp_path: Path) -> None:
    marker = tmp_path / "it happened"
    undisturbed = tmp_path / "undisturbed"
    undisturbed.touch()
    patience = 3 if fault == "hang" else 60
    (broken,) = played(lambda: fragile(patience), ["up", f"{fault} unless {marker}", "up"], JOBS[:1])
    assert marker.exists() and int(broken.metadata["tokens_before"]) > 50, "what the first try took is told"
    assert broken.success and broken.error is None and len(broken.turns) == 3
    assert ("has died" if fault == "die" else "did not answer") in broken.metadata["retried"]
    assert score([broken]).retried == 1
    (calm,) = played(fragile, ["up", "up", "up"], JOBS[:1])
    assert [turn.observation for turn in broken.turns] == [turn.observation for turn in calm.turns]
    assert score([calm]).retried == 0


def test_a_worker_that_dies_every_time_costs_one_episode_and_the_others_are_as_ever() -> None:
    def answers(text: str) -> str:
        """Give up for good in the episode whose first observation names this number."""
        return "die" if text.endswith(doomed) else "up"

    calm = played(fragile, ["up"], JOBS)
    doomed = calm[2].turns[0].observation
    hurt = played(fragile, answers, JOBS)
    assert "WorkerError" in str(hurt[2].error) and not hurt[2].success
    for index in (0, 1, 3):
        assert told(hurt[index]) == told(calm[index])
    summary = score(hurt)
    assert (summary.failed, summary.retried, summary.successes) == (1, 1, 3)


def test_an_error_of_the_environment_itself_is_not_tried_again() -> None:
    (failed,) = played(fragile, ["up", "crash"], JOBS[:1])
    assert "the environment broke" in str(failed.error) and "retried" not in failed.metadata


class Waiting(CountEnv):
    """Waits in its turn until another environment has taken one, as long as somebody else is slow."""

    blocking: ClassVar[bool] = True
    others = threading.Event()

    def _act(self, action: str) -> Any:
        if action == "wait":
            assert self.others.wait(20), "the other environment was held up"
            return super()._act("up")
        if action == "release":
            self.others.set()
            return super()._act("up")
        return super()._act(action)


def test_a_slow_environment_does_not_hold_up_the_others() -> None:
    workers = Workers(Waiting, 2)

    async def scene() -> None:
        slow, quick = await workers.take(), await workers.take()
        for env in (slow, quick):
            await workers.caller(env)(env.reset, seed=0)
        waiting = asyncio.create_task(workers.caller(slow)(slow.step, "wait"))  # type: ignore[arg-type]
        await workers.caller(quick)(quick.step, "up")
        assert not waiting.done()
        await workers.caller(quick)(quick.step, "release")
        assert (await waiting)[0].startswith("the number is 1")

    run(scene())
    workers.close()


def test_an_environment_of_this_process_is_called_at_once() -> None:
    workers = Workers(CountEnv, 1)
    assert workers.caller(run(workers.take())) is inline
    workers.close()
    assert workers._threads is None


def test_close_leaves_no_process_no_thread_and_no_descriptor() -> None:
    me = psutil.Process()
    children, descriptors, threads = len(me.children(recursive=True)), me.num_fds(), threading.active_count()
    collector = Collector(fragile, ScriptedEngine(["up", "die"]), ByteChat(), SETTINGS, concurrency=3)
    run(collector.play(JOBS))
    collector.close()
    assert until(lambda: len(me.children(recursive=True)) <= children)
    assert until(lambda: me.num_fds() <= descriptors and threading.active_count() <= threads)


def test_close_takes_back_what_an_interrupted_episode_has_left() -> None:
    made: list[CountEnv] = []

    def make() -> CountEnv:
        made.append(CountEnv())
        return made[-1]

    workers = Workers(make, 2)
    run(workers.take())
    workers.give_back(run(workers.take()))
    workers.close()
    assert len(made) == 2 and all(env.closed for env in made)


def test_an_environment_that_fails_to_close_does_not_keep_the_others_open() -> None:
    class Stubborn(CountEnv):
        def close(self) -> None:
            super().close()
            raise OSError("no")

    workers = Workers(Stubborn, 2)
    envs = [run(workers.take()), run(workers.take())]
    run(workers.discard(envs[0]))
    workers.close()
    assert all(env.closed for env in envs)  # type: ignore[attr-defined]


class Threaded(CountEnv):
    """Is called in threads, so that several are in use at once."""

    blocking: ClassVar[bool] = True


def test_an_environment_that_cannot_be_made_costs_its_episode_and_the_others_go_on() -> None:
    made = 0

    def make() -> Threaded:
        nonlocal made
        made += 1
        if made in (2, 3):
            raise WorkerError("no worker starts")
        return Threaded(max_turns=6)

    done = played(make, ["up"], JOBS)
    assert [trajectory.id for trajectory in done] == [job.id for job in JOBS]
    assert sum(trajectory.success for trajectory in done) >= 2
    assert all("no worker starts" in trajectory.error for trajectory in done if trajectory.error)
    assert any("no worker starts" in trajectory.metadata.get("retried", "") for trajectory in done)


def test_admissible_actions_that_are_shown_are_listed_in_the_thread_of_the_environment() -> None:
    asked_in: list[str] = []

    class Listing(Threaded):
        def _state(self, **values: Any) -> Any:
            state = super()._state(**values)
            listed = state.admissible
            state.admissible = lambda: asked_in.append(threading.current_thread().name) or listed()
            return state

    settings = EpisodeSettings(Sampling(max_tokens=200), show_admissible=True)
    collector = Collector(lambda: Listing(max_turns=6), ScriptedEngine(["up"]), ByteChat(), settings)
    (trajectory,) = run(collector.play(JOBS[:1]))
    collector.close()
    assert trajectory.success
    assert len(asked_in) == 4 and all(name.startswith("environment") for name in asked_in)


def test_a_fork_is_lent_like_any_other_and_no_more_are_kept_than_may_be_called_at_once() -> None:
    made: list[CountEnv] = []

    class Counted(CountEnv):
        def _copy(self) -> Any:
            made.append(super()._copy())
            return made[-1]

    workers = Workers(Counted, 1)

    async def scene() -> None:
        env = await workers.take()
        env.reset(seed=0)
        twin, lost = await workers.fork(env), await workers.fork(env)
        assert twin is made[0] and not workers.full
        workers.give_back(twin)
        assert workers.full and await workers.take() is twin and not workers.full
        await workers.discard(env)
        assert lost is made[1]

    run(scene())
    assert [env.closed for env in made] == [False, False]
    workers.close()
    assert all(env.closed for env in made)


def test_a_fork_whose_caller_has_gone_is_closed_all_the_same() -> None:
    made: list[Waiting] = []
    forking, go_on = threading.Event(), threading.Event()

    class Late(Waiting):
        def _copy(self) -> Any:
            forking.set()
            assert go_on.wait(20)
            made.append(super()._copy())
            return made[-1]

    workers = Workers(Late, 2)

    async def scene() -> None:
        env = await workers.take()
        await workers.caller(env)(env.reset, seed=0)
        fork = asyncio.create_task(workers.fork(env))
        await asyncio.to_thread(forking.wait, 20)
        fork.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await fork

    run(scene())
    workers.close()
    assert len(made) == 1 and made[0].closed
