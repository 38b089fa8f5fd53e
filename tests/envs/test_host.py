"""Objects in child processes: calls, forks, deaths, and that nothing is left behind."""

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import until

from agent_gym.envs.host import Host
from agent_gym.errors import GameError, WorkerError


class OddError(Exception):
    """Pickles, and cannot be made again from that."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


class Counter:
    """Counts, and fails in every way."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def add(self, number: int) -> int:
        self.value += number
        return self.value

    def fail(self, error: type[Exception]) -> None:
        raise error("on purpose")

    def unpicklable(self) -> Any:
        return lambda: None

    def stop(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def no_more_forks(self) -> None:
        def refuse() -> int:
            raise BlockingIOError("no more processes")

        os.fork = refuse

    def fail_oddly(self) -> None:
        raise OddError("one", "two")

    def size(self, text: str) -> int:
        return len(text)

    def shell(self) -> int:
        return subprocess.run(["false"], check=False).returncode

    def hashed(self) -> int:
        return hash("a string")

    def threads(self) -> int:
        return threading.active_count()


HERE = f"{__name__.rpartition('.')[2]}:Counter"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def counter() -> Iterator[Host]:
    host = Host(HERE, 10)
    yield host
    host.close()


def test_methods_run_in_another_process_and_keep_their_object(counter: Host) -> None:
    assert counter.call("add", 1) == 11 and counter.call("add", 2) == 13
    assert counter.pid != os.getpid() and psutil.pid_exists(counter.pid)


def test_what_a_method_raises_is_raised_here_with_the_traceback_of_there(counter: Host) -> None:
    for error in (GameError, ZeroDivisionError):
        with pytest.raises(error, match="on purpose") as raised:
            counter.call("fail", error)
        assert "in fail" in raised.value.__notes__[0]
    assert counter.call("add", 0) == 10


def test_a_result_that_cannot_travel_is_an_error_and_the_host_lives_on(counter: Host) -> None:
    with pytest.raises(RuntimeError, match="pickle"):
        counter.call("unpicklable")
    assert counter.call("add", 0) == 10


def test_a_fork_has_the_same_state_and_goes_its_own_way(counter: Host) -> None:
    counter.call("add", 5)
    child = counter.fork()
    grandchild = child.fork()
    assert (child.call("add", 1), counter.call("add", 2), grandchild.call("add", 3)) == (16, 17, 18)
    child.close()
    assert (counter.call("add", 0), grandchild.call("add", 0)) == (17, 18)
    grandchild.close()


def test_a_fork_outlives_its_parent(counter: Host) -> None:
    child = counter.fork()
    counter.kill()
    assert child.call("add", 1) == 11
    child.close()


def test_a_dead_process_is_one_sentence_and_not_alive(counter: Host) -> None:
    with pytest.raises(WorkerError, match=r"Counter has died; the next reset\(\) starts another"):
        counter.call("die")
    assert not counter.alive
    with pytest.raises(WorkerError, match="was closed"):
        counter.call("add", 1)
    with pytest.raises(WorkerError):
        counter.fork()


def test_a_process_killed_from_outside_is_noticed_at_the_next_call(counter: Host) -> None:
    os.kill(counter.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match="has died"):
        counter.call("add", 1)


def test_a_hung_process_is_ended_after_the_time_out(counter: Host) -> None:
    pid = counter.pid
    with pytest.raises(WorkerError, match=r"did not answer within 0\.2 s"):
        counter.call("stop", timeout=0.2)
    assert not counter.alive and until(lambda: not psutil.pid_exists(pid))


def test_a_hung_process_cannot_hold_up_close(counter: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_gym.envs.host._CLOSE_SECONDS", 0.1)
    os.kill(counter.pid, signal.SIGSTOP)
    pid = counter.pid
    counter.close()
    assert until(lambda: not psutil.pid_exists(pid))


def test_a_host_can_run_programs_and_hashes_alike_everywhere(counter: Host) -> None:
    other = Host(HERE)
    assert counter.call("shell") == 1 and counter.fork().call("shell") == 1
    assert counter.call("hashed") == other.call("hashed")
    assert counter.call("threads") == 1
    other.close()


def test_nothing_is_left_when_all_are_closed_or_forgotten() -> None:
    gc.collect()
    me = psutil.Process()
    before = {child.pid for child in me.children(recursive=True)}
    descriptors, threads = me.num_fds(), threading.active_count()
    hosts = [Host(HERE, number) for number in range(3)]
    hosts.append(hosts[0].fork())
    assert until(lambda: len({child.pid for child in me.children(recursive=True)} - before) == 5), (
        "four hosts and their template"
    )
    started = {child.pid for child in me.children(recursive=True)} - before
    hosts[0].close()
    hosts[1].kill()
    hosts.clear()
    gc.collect()
    assert until(lambda: {child.pid for child in me.children(recursive=True)} <= before)
    assert not any(psutil.pid_exists(pid) for pid in started)
    assert until(lambda: me.num_fds() <= descriptors and threading.active_count() <= threads)


def test_hosts_die_with_a_process_that_is_killed() -> None:
    program = (
        "import sys; from agent_gym.envs.host import Host\n"
        f"host = Host({HERE!r}); twin = host.fork()\n"
        "print(host.pid, twin.pid, host._template._process.pid, flush=True)\n"
        "host.call('stop', timeout=100)"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert all(psutil.pid_exists(pid) for pid in pids)
        parent.kill()
    assert until(lambda: not any(psutil.pid_exists(pid) and running(pid) for pid in pids))


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_module_that_cannot_be_imported_says_so() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        Host("no_such_module:Nothing")


def test_a_constructor_that_fails_leaves_no_process() -> None:
    me = psutil.Process()
    before = {child.pid for child in me.children(recursive=True)}
    with pytest.raises(TypeError):
        Host(HERE, 1, 2, 3)
    assert {child.pid for child in me.children(recursive=True)} == before


def test_an_interrupted_call_ends_the_host_because_its_answer_is_still_to_come(counter: Host) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            counter.call("stop")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not counter.alive
    with pytest.raises(WorkerError):
        counter.call("add", 1)


def test_what_cannot_be_sent_is_told_before_anything_is_sent(counter: Host) -> None:
    with pytest.raises(Exception, match="pickle"):
        counter.call("add", lambda: None)
    assert counter.call("add", 1) == 11


def test_a_fork_of_this_process_leaves_the_hosts_alone(counter: Host) -> None:
    child = os.fork()
    if not child:
        try:
            used = counter.alive
            counter.close()
            gc.collect()
        finally:
            os._exit(int(used))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "it is not alive there"
    assert counter.call("add", 1) == 11


def test_a_host_that_cannot_be_forked_says_so_and_lives_on(counter: Host) -> None:
    counter.call("no_more_forks")
    with pytest.raises(WorkerError, match="cannot be forked: no more processes"):
        counter.fork()
    assert counter.call("add", 1) == 11


def test_a_hung_host_cannot_hold_up_its_fork(counter: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_gym.envs.host._CLOSE_SECONDS", 0.2)
    os.kill(counter.pid, signal.SIGSTOP)
    counter.timeout = 0.2
    with pytest.raises(WorkerError, match="did not answer"):
        counter.fork()
    assert not counter.alive


def test_a_hung_host_cannot_hold_up_a_large_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_gym.envs.host._TRANSFER_SECONDS", 3)
    host = Host(HERE)
    assert host.call("size", "x" * 10**7) == 10**7
    os.kill(host.pid, signal.SIGSTOP)
    with pytest.raises(WorkerError):
        host.call("size", "x" * 10**7)
    assert not host.alive


def test_an_error_that_does_not_survive_the_journey_is_told_in_words(counter: Host) -> None:
    with pytest.raises(RuntimeError, match="OddError: one and two") as raised:
        counter.call("fail_oddly")
    assert "in fail_oddly" in raised.value.__notes__[0]
