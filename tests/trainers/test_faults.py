"""A run that is told to stop, or whose disk is full, ends with a sentence and goes on as if nothing had happened."""

import asyncio
import gc
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import forking
import pytest
import yaml

from agent_gym.config import TrainConfig
from agent_gym.config_files import build
from agent_gym.engines.scripted import ScriptedEngine
from agent_gym.errors import StoppedError
from agent_gym.rollout.chat import ByteChat
from agent_gym.rollout.seeds import derive_seed
from agent_gym.store.run import RunFolder
from agent_gym.trainers.algorithm import IndependentRollouts, Progress
from agent_gym.trainers.learner import Learner
from agent_gym.trainers.sampling import Sampler
from agent_gym.trainers.stopping import Stopping
from agent_gym.trainers.trainer import RunResult, train

TESTS = Path(__file__).parents[1]
SMALL: dict[str, Any] = {
    "model": {"hidden": 64, "layers": 1, "heads": 2, "feed_forward": 512, "vocabulary": 300},
    "rollout": {"tasks": 2, "concurrency": 4, "max_tokens": 4},
    "algorithm": {"options": {"group_size": 2}},
    "update": {"learning_rate": 1e-3, "updates_per_step": 2},
    "measure": {"tasks": 2, "every": 2, "interim_tasks": 2},
    "steps": 5,
    "checkpoint_every": 4,
    "threads": 1,
}


def configured(folder: Path, **env: Any) -> dict[str, Any]:
    """Return a configuration whose environments may hold on, see `small_envs.Held`."""
    folder.mkdir(exist_ok=True)
    return {**SMALL, "env": {"id": "small_envs:Held", "options": {"folder": str(folder), "max_turns": 3, **env}}}


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in each.items() if key != "seconds"} for each in records]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("runs")
    return train(build(TrainConfig, configured(folder / "env")), folder / "undisturbed")


def command(folder: Path, config: dict[str, Any], *more: str) -> Any:
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    arguments = ["train", "--config", "config.yaml", "--name", "run", *more]
    return forking.agent_gym_begun(arguments, folder, {**os.environ, "PYTHONPATH": str(TESTS)})


def held(begun: forking.Begun, env: Path) -> None:
    """Wait until an episode holds on."""
    deadline = time.monotonic() + 100
    while not (env / "held").exists():
        assert time.monotonic() < deadline and begun.process.is_alive(), "no episode has begun"
        time.sleep(0.01)


IN_THE_THIRD_STEP = {"hold_seed": derive_seed(derive_seed(0, "rollout", 2), 0)}
IN_THE_SECOND_MEASUREMENT = {"hold_seed": derive_seed(derive_seed(0, "measure"), 0), "hold_time": 2}


@pytest.mark.parametrize(
    ("sent", "where", "code", "sentence"),
    [
        (signal.SIGTERM, IN_THE_THIRD_STEP, 143, "error: Stopped by SIGTERM after 2 steps; go on with --resume"),
        (signal.SIGTERM, IN_THE_SECOND_MEASUREMENT, 143, "error: Stopped by SIGTERM after 2 steps; go on with"),
        (signal.SIGINT, IN_THE_THIRD_STEP, 130, "error: Interrupted after 2 steps; go on with --resume"),
    ],
)
def test_a_run_that_is_told_to_stop_keeps_its_last_step_and_resumes_to_the_same_numbers(
    undisturbed: RunResult, tmp_path: Path, sent: signal.Signals, where: dict[str, int], code: int, sentence: str
) -> None:
    config, run = configured(tmp_path / "env", **where), tmp_path / "runs" / "run"
    with command(tmp_path, config) as begun:
        held(begun, tmp_path / "env")
        begun.send(sent)
        (tmp_path / "env" / "go").touch()
        returned, _, stderr = begun.end()
    assert returned == code and "Traceback" not in stderr
    # Bars of the libraries come before it.
    assert stderr.splitlines()[-1].startswith(sentence)
    assert RunFolder.open(run).checkpoints() == [0, 2], "no checkpoint was due there"
    resumed = train(build(TrainConfig, config), run, resume=True)
    assert without_times(resumed.metrics) == without_times(undisturbed.metrics)


def test_a_signal_in_an_update_waits_for_the_end_of_the_step() -> None:
    with Stopping(alone=True) as stopping:
        signal.raise_signal(signal.SIGTERM)
        assert stopping.asked, "nothing is broken off"
        with pytest.raises(KeyboardInterrupt), stopping.playing():
            pytest.fail("episodes were played")
        assert stopping.settled
    with Stopping(alone=False) as stopping, stopping.playing():
        signal.raise_signal(signal.SIGTERM)
    assert stopping.asked and not stopping.settled, "of several processes none breaks off before all do"
    with pytest.raises(KeyboardInterrupt):
        stopping.heed([None, signal.SIGTERM])
    assert stopping.settled
    Stopping(alone=False).heed([None, None])


def test_the_first_ctrl_c_in_an_update_waits_for_the_end_of_the_step_and_a_later_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        now = [10.0]
        monkeypatch.setattr("time.monotonic", lambda: now[0])
        with Stopping(alone=True) as stopping, stopping.training():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            assert stopping.asked == signal.SIGINT, "launchers hand on what the terminal has sent already"
            with pytest.raises(KeyboardInterrupt), stopping.playing():
                pytest.fail("episodes were played")
            assert stopping.settled and stopping.error(3, Path("run")).exit_code == 130
            now[0] += 5
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with Stopping(alone=True) as stopping, stopping.training(), stopping.playing():
            # Only then do loops of asyncio answer it by cancelling what they run.
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with Stopping(alone=False) as stopping, stopping.training(), stopping.playing():
            signal.raise_signal(signal.SIGINT)
            assert stopping.asked, "of several processes none breaks off before all do"
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_an_update_keeps_the_step(
    undisturbed: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = build(TrainConfig, configured(tmp_path / "env"))
    learn = Learner.learn

    def interrupted(this: Learner, groups: Any, progress: Progress) -> dict[str, float]:
        if progress.step == 2:
            signal.raise_signal(signal.SIGINT)
        return learn(this, groups, progress)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch, pytest.raises(StoppedError, match="Interrupted after 3 steps") as stopped:
            patch.setattr(Learner, "learn", interrupted)
            train(config, tmp_path / "run")
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.value.exit_code == 130
    assert RunFolder.open(tmp_path / "run").checkpoints()[-1] == 3, "no checkpoint was due there"
    resumed = train(config, tmp_path / "run", resume=True)
    assert without_times(resumed.metrics) == without_times(undisturbed.metrics)


FULL = """
import ctypes, json, os, subprocess, sys
from pathlib import Path
from agent_gym.config import TrainConfig
from agent_gym.config_files import build
from agent_gym.errors import StoreError
from agent_gym.trainers.trainer import train

NEW_NAMESPACE, NEW_USER = 0x20000, 0x10000000
libc = ctypes.CDLL(None, use_errno=True)
user = os.getuid()
if libc.unshare(NEW_NAMESPACE | (NEW_USER if user else 0)):
    sys.exit("no namespace of one's own: " + os.strerror(ctypes.get_errno()))
if user:
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
def mount(*options):
    done = subprocess.run(["mount", *options, "disk"], capture_output=True, text=True)
    if done.returncode:
        sys.exit("no disk of one's own: " + done.stderr)
subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True)
Path("disk").mkdir()
mount("-t", "tmpfs", "-o", "size=%dk" % sizes[0], "tmpfs")
config = build(TrainConfig, json.loads(Path("config.json").read_text()))
said, kept = [], []
for size in [*sizes[1:], 65536]:
    try:
        train(config, "disk/run", resume=True)
        said.append("done")
    except StoreError as error:
        said.append(str(error))
    run = Path("disk/run")
    kept.append([sorted(path.name for path in (run / "checkpoints").glob("*")), bool(list(run.rglob("*.partial")))])
    mount("-o", "remount,size=%dk" % size)
result = train(config, "disk/run", resume=True)
Path("said.json").write_text(json.dumps([said, kept, result.metrics]))
"""


def test_a_full_disk_loses_nothing_and_the_run_goes_on_when_there_is_space(
    undisturbed: RunResult, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(configured(tmp_path / "env")))
    # Too small for anything, for the episodes beside a first checkpoint, and for a second one.
    sizes = [200, 900, 1800]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    done = forking.python([f"sizes = {sizes}", FULL], tmp_path, environment)
    if "of one's own" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    said, kept, metrics = json.loads((tmp_path / "said.json").read_text())
    assert all("--resume" in sentence for sentence in said), said
    assert "trajectories.sqlite cannot be" in said[1]
    assert re.search(r"disk/run/checkpoints/step-[45] cannot be written: .*No space left on device", said[2])
    assert ["step-0" in names for names, _ in kept] == [False, True, True], "the last good one is there"
    assert not any(halves for _, halves in kept)
    assert without_times(metrics) == without_times(undisturbed.metrics)


def test_a_signal_that_no_loop_answers_ends_what_was_played_and_is_raised_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sampler = Sampler(TrainConfig(), ScriptedEngine(["up"]), ByteChat(), IndependentRollouts(2))
    ended: list[int] = []
    tasks: list[asyncio.Task[None]] = []

    async def episode(number: int) -> None:
        try:
            await asyncio.sleep(0)
            if number == 1:
                raise KeyboardInterrupt  # as a handler does where Ctrl-C is ignored
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    async def collection(alone: bool) -> None:
        if alone:  # as an engine's loop is, which answers by futures
            tasks.append(asyncio.create_task(episode(1)))
            await asyncio.Event().wait()
        async with asyncio.TaskGroup() as episodes:
            for number in range(3):
                episodes.create_task(episode(number))

    with pytest.raises(KeyboardInterrupt):
        sampler.call(collection(False))
    with pytest.raises(KeyboardInterrupt):
        sampler.call(collection(True))
    assert sorted(ended) == [0, 1, 1, 2]
    sampler.close()
    tasks.clear()
    gc.collect()
    assert not caplog.records, "asyncio tells of tasks whose errors nobody has asked for"
