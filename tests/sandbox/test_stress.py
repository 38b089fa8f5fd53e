"""Many at once, and nothing is left: no process, group, mount, descriptor, thread or folder."""

import os
import select
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sandboxes import LIMITS
from waiting import until

from agent_gym.errors import ConfigError
from agent_gym.sandbox import Sandbox, make
from agent_gym.sandbox.cgroups import find_hierarchy, left_over, ours, owner_label, sweep

pytestmark = pytest.mark.usefixtures("bubblewrap")


def test_two_hundred_runs_at_once_have_no_engine_error(bubblewrap: Sandbox) -> None:
    def one(number: int) -> bytes:
        return bubblewrap.run(f"import numpy; print({number} + int(numpy.ones(3).sum()))").stdout

    with ThreadPoolExecutor(4 * (os.cpu_count() or 1)) as pool:
        found = list(pool.map(one, range(200)))
    assert found == [f"{number + 3}\n".encode() for number in range(200)]


def test_forty_sessions_live_side_by_side(bubblewrap: Sandbox) -> None:
    sessions = [bubblewrap.session() for _ in range(40)]
    for number, session in enumerate(sessions):
        session.run(f"x = {number}")
    assert [int(session.run("x").stdout) for session in sessions] == list(range(40))
    for session in sessions:
        session.close()


def test_nothing_is_left_of_a_sandbox_that_was_closed(bubblewrap: Sandbox) -> None:
    # What other tests have thrown away is cleared by one thread, in order.
    bubblewrap._housekeeper.submit(int).result()  # type: ignore[attr-defined]
    before = _everything()
    sandbox = make("bubblewrap", limits=LIMITS, preload=())
    session = sandbox.session()
    session.run("import subprocess; subprocess.Popen(['sleep', '300'])")
    twins = [session.fork() for _ in range(3)]
    twins[0].run("while True: pass", timeout=0.2)
    session.close()
    for _ in range(5):
        sandbox.run("print(1)", files={"a": b"x"}, collect=["a"])
    with pytest.raises(ConfigError, match="cannot be written"):
        sandbox.run("1", files={"a/b": b"", "a": b""})
    assert _children()
    sandbox.close()
    assert until(lambda: _everything() == before)


def test_nothing_lives_on_when_the_owner_is_killed_and_the_next_one_sweeps_its_groups() -> None:
    owner = subprocess.Popen([sys.executable, "-c", _OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pids = [int(pid) for pid in owner.stdout.readline().split()]
    label = owner_label(owner.pid)
    pidfds = [pidfd for pid in pids if (pidfd := _opened(pid)) is not None]
    assert len(pidfds) >= 4 and _groups_of(label)
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], 30.0)[0], "a process of the sandbox lives on"
        os.close(pidfd)
    assert _groups_of(label)
    sweep(find_hierarchy())
    assert not _groups_of(label)


_OWNER = """
import os
from pathlib import Path
from agent_gym.sandbox import make
sandbox = make("bubblewrap", preload=())
sessions = [sandbox.session()]
sessions[0].run("import subprocess; subprocess.Popen(['sleep', '300'])")
sessions.append(sessions[0].fork())
sessions[1].run("1")
sandbox.run("1")
def below(pid):
    found = []
    for child in Path(f"/proc/{pid}/task").glob("*/children"):
        for each in child.read_text().split():
            found += [each, *below(each)]
    return found
print(*below(os.getpid()), flush=True)
import signal
signal.pause()
"""


def _opened(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None  # it was only there for a moment


def _groups_of(label: str) -> list[Path]:
    return [path for path in ours(find_hierarchy()) if path.name.startswith(f"agent_gym-{label}-")]


def _children() -> list[str]:
    """Return the names of the processes that descend from this one."""
    found: list[str] = []
    front = [str(os.getpid())]
    while front:
        pid = front.pop()
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            children = path.read_text().split()
            found += children
            front += children
    return found


def _everything() -> dict[str, object]:
    return {
        "processes": sorted(_children()),
        "groups": sorted(map(str, left_over(find_hierarchy()))),
        # The containers of a daemon come and go meanwhile.
        "mounts": [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "docker" not in line],
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "threads": sorted(t.name for t in threading.enumerate() if not t.name.startswith("sandbox-starter")),
        "folders": sorted(path.name for path in Path("/tmp").glob("agent_gym-*")),
    }
