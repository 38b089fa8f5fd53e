"""Environments in actors of Ray: the same episodes as here, wherever an actor, a machine or the run itself dies."""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import forking
import psutil
import pytest
import yaml
from helpers import run

from agent_gym.config import TrainConfig
from agent_gym.config_files import build
from agent_gym.engines.base import Sampling
from agent_gym.engines.scripted import ScriptedEngine
from agent_gym.envs.conformance import conform
from agent_gym.errors import ConfigError, MissingExtraError, StaleInfo, UnknownIdError, WorkerError
from agent_gym.registry import make
from agent_gym.rollout import ray_workers
from agent_gym.rollout.chat import ByteChat
from agent_gym.rollout.collect import Collector, Job
from agent_gym.rollout.episode import EpisodeSettings
from agent_gym.rollout.ray_session import RaySession
from agent_gym.rollout.ray_workers import RayPool
from agent_gym.rollout.score import score
from agent_gym.rollout.seeds import derive_seed
from agent_gym.sections import RolloutSection
from agent_gym.store.run import RunFolder
from agent_gym.trajectory import Trajectory

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]

FRAGILE = "small_envs:Fragile"
JOBS = [Job(f"e{number}", "g", "count 0", number) for number in range(6)]
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without CPUs and two machines with one each; it notices within seconds that one has died.

    One that is only slow has 15 s, and what starts here has a second try after the 30 s that Ray gives it.
    """
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="agt-", dir="/tmp")
    noticing = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 1000,
        "health_check_timeout_ms": 5000,
        "health_check_failure_threshold": 3,
    }
    small = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    made: list[Any] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGTERM)}
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("Ray has not started within 240 s."))
    signal.alarm(240)
    try:
        head = {**small, "num_cpus": 0, "temp_dir": folder, "_system_config": noticing}
        made.append(twice(lambda: Cluster(initialize_head=True, head_node_args=head)))
        for _ in range(2):
            twice(lambda: made[0].add_node(num_cpus=1, temp_dir=folder, **small))
        signal.alarm(0)
        yield made[0]
    finally:
        signal.alarm(0)
        for each in made:
            each.shutdown()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        shutil.rmtree(folder, ignore_errors=True)


def twice(start: Callable[[], Any]) -> Any:
    with contextlib.suppress(Exception):
        return start()
    return start()


@pytest.fixture
def pool(cluster: Any) -> Iterator[Callable[..., RayPool]]:
    """Makes pools on the cluster, which are closed at the end."""
    opened: list[RayPool] = []

    def open_pool(id: str = FRAGILE, options: Any = None, **section: Any) -> RayPool:
        values = {"workers": "ray", "concurrency": 4, "ray_address": cluster.address, **section}
        opened.append(RayPool(RolloutSection(**values), id, {"max_turns": 6} if options is None else options))
        return opened[-1]

    yield open_pool
    for each in opened:
        each.close()


def played(make_env: Any, answers: Any, jobs: list[Job] = JOBS, **settings: Any) -> list[Trajectory]:
    how = EpisodeSettings(Sampling(max_tokens=200), **settings)
    collector = Collector(make_env, ScriptedEngine(answers), ByteChat(), how, concurrency=4)
    try:
        return run(collector.play(jobs))  # type: ignore[no-any-return]
    finally:
        collector.close()


def told(trajectories: list[Trajectory], *without: str) -> list[Any]:
    """Return all that is recorded but what differs from run to run: how long things took, and these keys."""
    records = []
    for each in trajectories:
        turns = [(t.observation, t.text, t.action, t.start, t.end, t.reward, t.invalid_action) for t in each.turns]
        about = {key: value for key, value in each.metadata.items() if key not in without}
        records.append([each.token_ids, each.action_mask, turns, each.success, each.score, each.task_id, each.goal])
        records[-1] += [each.error, each.final_observation, each.terminated, each.truncated, about]
    return records


def inline(id: str = FRAGILE) -> Any:
    return partial(make, id, max_turns=6)


# -- the same as here --------------------------------------------------------------------------------------------------


def test_episodes_are_those_that_are_played_here_and_the_environments_are_given_back(pool: Any) -> None:
    remote = pool()
    for answers in (["up"], ["down", "what", "stop"], ["up", "crash"]):
        assert told(played(remote.make, answers)) == told(played(inline(), answers))
    shown = {"show_admissible": True, "restate_goal": True}
    assert told(played(remote.make, ["up"], **shown)) == told(played(inline(), ["up"], **shown))
    assert remote.wanted == {"admissible_actions"}
    assert all(link.environments == 0 for link in remote._links)


def test_an_environment_elsewhere_conforms_and_says_of_itself_what_it_says_here(pool: Any) -> None:
    remote = pool("small_envs:WordEnv", {})
    assert not [check for check in conform(remote.make) if check.passed is False]
    here, there = make("small_envs:WordEnv"), remote.make(split="test")
    assert there.splits == here.splits and there.split == "test" and there.held_out_split == here.held_out_split
    assert list(there.tasks("train")) == list(here.tasks("train")) and there.find_task("elbow").split == "test"
    with pytest.raises(UnknownIdError, match="apple"):
        there.reset(options={"task": "aple"})
    there.reset(seed=1)
    assert list(there.expert()) == ["elbow"]


def test_what_is_lazy_can_be_read_until_the_environment_moves_on(pool: Any) -> None:
    env = pool().make()
    _, first = env.reset(seed=0)
    assert first["admissible_actions"] == ["up", "down", "stop 0"]
    env._pool.wanted.clear()
    *_, second = env.step("up")
    twin = env.fork()
    twin.step("up")
    env.step("down")
    with pytest.raises(StaleInfo, match="earlier turn"):
        second["admissible_actions"]


def test_environments_that_wait_for_others_do_so_at_the_same_time(pool: Any) -> None:
    remote = pool("small_envs:Meeting", ray_actors=1, ray_timeout=30)
    assert all(each.success for each in played(remote.make, ["up"], JOBS[:2]))


def test_the_code_of_an_environment_in_a_file_travels_with_what_it_imports(
    pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "words_of_mine.py").write_text("SAID = 'hello from afar'\n")
    (tmp_path / "mine.py").write_text(
        "from words_of_mine import SAID\nfrom small_envs import CountEnv\n"
        "class Mine(CountEnv):\n    def _said(self):\n        return SAID\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def ship(id: str, options: Any) -> Any:
        shipment = original(id, options)
        (tmp_path / "mine.py").unlink()
        (tmp_path / "words_of_mine.py").unlink()
        return shipment

    original = ray_workers.shipment_of
    monkeypatch.setattr(ray_workers, "shipment_of", ship)
    assert pool(f"{tmp_path}/mine.py:Mine", {}).make().reset(seed=0)[0] == "hello from afar"


# -- what dies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["die", "hang"])
def test_an_actor_that_dies_or_hangs_costs_its_episodes_a_second_try_and_is_replaced(
    fault: str, pool: Any, tmp_path: Path
) -> None:
    seconds = 20 if fault == "die" else 8
    remote, marker = pool(ray_timeout=seconds), tmp_path / "it happened"
    hurt = played(remote.make, ["up", f"{fault} unless {marker}", "up"])
    calm = played(inline(), ["up", "up", "up"])
    again = [each for each in hurt if "retried" in each.metadata]
    assert 0 < len(again) <= 3 and score(hurt).retried == len(again) and all(each.success for each in hurt)
    what = "has died" if fault == "die" else f"did not answer within {seconds} s"
    for each in again:
        assert f"{what}" in each.metadata["retried"] and "on node" in each.metadata["retried"]
    for ours, theirs in zip(hurt, calm, strict=True):
        assert [turn.observation for turn in ours.turns] == [turn.observation for turn in theirs.turns]
    deadline = time.monotonic() + 60
    while sum(remote.nodes.values()) < 2 and time.monotonic() < deadline:
        remote.ray.wait([link.placed for link in remote._links], num_returns=2, timeout=1)
    assert sum(remote.nodes.values()) == 2


@pytest.mark.parametrize("options", [{}, {"worker": "process"}])
def test_an_environment_that_dies_every_time_takes_nobody_along_at_the_second_time(
    options: dict[str, Any], pool: Any
) -> None:
    remote = pool(options={"max_turns": 6, **options})
    calm = played(remote.make, ["up"], JOBS[:4])
    doomed = calm[2].turns[0].observation
    hurt = played(remote.make, lambda text: "die" if text.endswith(doomed) else "up", JOBS[:4])
    assert "worker process" in str(hurt[2].error) and [each.success for each in hurt] == [True, True, False, True]
    assert ("The Ray actor" in hurt[2].metadata["retried"]) == (not options)
    assert all(link.environments == 0 for link in remote._links)


def test_a_cluster_that_goes_away_is_an_error_of_the_episodes_and_the_connection_is_closed_all_the_same(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = pool()
    kill, session, closed = remote.ray.kill, remote._session, []

    def broken(*actors: Any) -> Any:
        for actor in actors:
            kill(actor)
        raise ConnectionError("the other end has hung up")

    monkeypatch.setattr(remote.ray, "kill", broken)
    monkeypatch.setattr(remote, "_start", broken)
    link = remote._first()
    link.failed(ConnectionError())
    assert link not in remote._links and len(remote._links) == 1
    remote._links[0].failed(ConnectionError())
    with pytest.raises(WorkerError, match="No actor of Ray is left"):
        remote.make()
    monkeypatch.setattr(session, "close", lambda: closed.append(RaySession.close(session)))
    remote.close()
    assert closed == [None]
    remote.close()
    assert not remote.ray.is_initialized()


SMALL: dict[str, Any] = {
    "model": {"hidden": 16, "layers": 1, "heads": 2, "feed_forward": 32, "vocabulary": 300},
    "algorithm": {"options": {"group_size": 2}},
    "measure": {"tasks": 0},
    "update": {"learning_rate": 1e-3},
    "steps": 3,
    "threads": 1,
}


SECOND_STEP = derive_seed(derive_seed(0, "rollout", 1), 0)


def small_run(folder: Path, **rollout: Any) -> TrainConfig:
    """Return a configuration with which an episode of the second step holds on."""
    folder.mkdir(exist_ok=True)
    section = {"tasks": 3, "concurrency": 6, "max_tokens": 4, "temperature": 1.0, **rollout}
    env = {"id": "small_envs:Held", "options": {"folder": str(folder), "max_turns": 4, "hold_seed": SECOND_STEP}}
    return build(TrainConfig, {**SMALL, "env": env, "rollout": section})


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in record.keys() - {"seconds", "retried", "phase"}}


def tokens(run: Path) -> list[list[int]]:
    """Return what was said in the episodes that were trained on."""
    with RunFolder.open(run).trajectories() as store:
        return [episode.token_ids for episode in store.select(phase="train")]


def wait_until_held(env: Path, going_on: Callable[[], bool]) -> int:
    """Return the process in which an episode holds on."""
    deadline = time.monotonic() + 100
    while not (env / "held").exists():
        assert time.monotonic() < deadline and going_on(), "no episode has come so far"
        time.sleep(0.01)
    return int((env / "held").read_text())


def test_a_machine_that_dies_in_a_step_costs_its_episodes_a_second_try_and_training_goes_on_as_if_it_had_not(
    cluster: Any, tmp_path: Path
) -> None:
    from agent_gym.trainers.trainer import train

    env = tmp_path / "env"
    config = small_run(env, workers="ray", ray_address=cluster.address)
    died: list[str] = []

    def kill() -> None:
        raylet = psutil.Process(wait_until_held(env, lambda: True)).parent()
        assert raylet is not None
        died.append(raylet.name())
        raylet.kill()

    watching = threading.Thread(target=kill, daemon=True)
    watching.start()
    hurt = train(config, tmp_path / "hurt")
    watching.join(10)
    assert died == ["raylet"]
    (env / "go").touch()
    calm = train(small_run(env), tmp_path / "calm")
    for ours, theirs in zip(hurt.metrics, calm.metrics, strict=True):
        # The engine's batches are made up as answers come in: their sums differ in the last digits, of which alone the
        # mismatch of engine and trainer consists.
        assert without_times(ours) == pytest.approx(without_times(theirs), rel=1e-5, abs=1e-6)
    assert tokens(tmp_path / "hurt") == tokens(tmp_path / "calm")
    assert sum(each["retried"] for each in hurt.metrics) in (1, 2, 3) and not any(m["retried"] for m in calm.metrics)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_without_ray_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'agent-gym\[ray\]'"):
        RayPool(RolloutSection(workers="ray"), FRAGILE, {})


def test_an_address_where_nobody_is_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"No cluster of Ray answers at 127\.0\.0\.1:9.*ray start --head"):
        RayPool(RolloutSection(workers="ray", ray_address="127.0.0.1:9"), FRAGILE, {})


def test_more_episodes_than_there_is_room_for_are_refused() -> None:
    section = RolloutSection(workers="ray", ray_actors=2, ray_environments=3, concurrency=8)
    with pytest.raises(ConfigError, match="2 actors of 3 environments have no room for 8"):
        RayPool(section, FRAGILE, {})


def test_a_secret_is_not_sent_to_a_cluster_wherever_it_is() -> None:
    section = RolloutSection(workers="ray", ray_address="ray://cluster:10001")
    with pytest.raises(ConfigError, match=r"env\.options\.tools\[1\]\.api_key would be sent"):
        RayPool(section, FRAGILE, {"tools": [{"id": "search"}, {"id": "browse", "api_key": "sesame"}]})


# -- a Ray of one's own ------------------------------------------------------------------------------------------------


def command(folder: Path) -> Any:
    """Begin a training with a Ray of its own."""
    config = small_run(folder / "env", workers="ray", ray_actors=1)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    return forking.agent_gym_begun(["train", "--config", "config.yaml", "--name", "run"], folder, environment)


def gone(family: list[psutil.Process]) -> bool:
    """Return whether none of these processes runs; who was their parent may not have asked for them."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family)
    return False


def left(process: int, family: list[psutil.Process]) -> list[str]:
    """Return what is left of a run after a while: processes that it had started, and files of its Ray."""
    deadline = time.monotonic() + 20
    while not gone(family) and time.monotonic() < deadline:
        time.sleep(0.05)
    alive = [] if gone(family) else [str(each) for each in family]
    return alive + [str(path) for path in Path("/tmp").glob(f"agr-{process}-*")]


def strangers_are_turned_away(raylet: psutil.Process) -> None:
    """Make sure that one does not speak to a run's Ray without its token."""
    from ray._raylet import GcsClient

    address = next(each.split("=")[1] for each in raylet.cmdline() if each.startswith("--gcs-address="))
    with pytest.raises(Exception, match=r"(?i)unauthenticated|token"):
        GcsClient(address=address).get_all_node_info(timeout=20)


@pytest.mark.parametrize("sent", [None, signal.SIGINT])
def test_a_run_with_a_ray_of_its_own_is_quiet_and_leaves_no_process_and_no_file_however_it_ends(
    sent: signal.Signals | None, tmp_path: Path
) -> None:
    with command(tmp_path) as begun:
        wait_until_held(tmp_path / "env", begun.process.is_alive)
        family = psutil.Process(begun.pid).children(recursive=True)
        assert any(each.name() == "raylet" for each in family)
        strangers_are_turned_away(next(each for each in family if each.name() == "raylet"))
        if sent is None:
            (tmp_path / "env" / "go").touch()
        else:
            begun.send(sent)
        code, stdout, stderr = begun.end()
        assert not left(begun.pid, family)
    assert "(raylet)" not in stdout + stderr and "Traceback" not in stderr
    if sent is None:
        assert code == 0 and "run folder" in stdout
    else:
        assert code == 130 and stderr.splitlines()[-1].startswith(
            "error: Interrupted after 1 steps; go on with --resume"
        )
