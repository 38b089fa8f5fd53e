"""What a box, or a process that was forked from its owner, does to its neighbours: nothing."""

import asyncio
import gc
import os
import resource
import select
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sandboxes import LIMITS, open_sandbox

from agent_gym.errors import ConfigError, SandboxError
from agent_gym.sandbox import Sandbox, Session, Status, make
from agent_gym.sandbox.cgroups import find_hierarchy, left_over

IN_FLIGHT = """
import socket
pairs, sent = [], 0
try:
    while sent < 100_000:
        pairs.append(socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
        for _ in range(4): socket.send_fds(pairs[-1][0], [b'x'], [0] * 250); sent += 250
except OSError as error: print(error.errno)
"""


def test_descriptors_that_one_box_holds_in_its_sockets_do_not_keep_others_from_anything(bubblewrap: Sandbox) -> None:
    """The kernel counts them for a user, and all boxes of a pool have one."""
    with bubblewrap.session() as hog, bubblewrap.session() as other:
        assert other.run("x = 1").ok
        # "Too many references": it has all that it can have.
        assert hog.run(IN_FLIGHT).stdout == b"109\n"
        with other.fork() as twin:
            assert twin.run("x").stdout == b"1\n"
        assert other.run("import os; os._exit(0)").restarted
        assert bubblewrap.run("print(1)").stdout == b"1\n"


@pytest.mark.parametrize(
    "each",
    ["pass", "os.kill(1, signal.SIGCHLD)", "os.kill(1, signal.SIGTERM)", "os.close(os.open('/proc/1/stat', 0))"],
    ids=["spin", "end of children", "end", "look"],
)
def test_a_crowd_of_processes_does_not_keep_the_supervisor_from_its_work(isolating: Sandbox, each: str) -> None:
    crowd = (
        "import os, signal\n"
        "try: os.setpriority(os.PRIO_USER, 0, 19)\nexcept OSError: pass\n"
        f"for _ in range(40):\n    if os.fork() == 0:\n        while True: {each}\n"
        f"while True: {each}"
    )
    with isolating.session() as session:
        late = session.run(crowd, timeout=0.7)
        assert (late.status, late.files_lost) == (Status.TIMEOUT, False) and late.seconds < 10.0
        assert session.run("6 * 7").stdout == b"42\n"


def test_a_terminal_is_refused_whatever_the_upper_half_of_the_request_is(isolating: Sandbox) -> None:
    """The kernel only looks at the lower one, a filter at both."""
    code = (
        "import ctypes, errno, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "number = {'x86_64': 16, 'aarch64': 29}[os.uname().machine]\n"
        "for request in (0x5401, 0x5412, 0x5412 | 1 << 32, 0x5412 | 1 << 63):\n"
        "    ctypes.set_errno(0); libc.syscall(number, 0, ctypes.c_ulong(request), ctypes.create_string_buffer(64))\n"
        "    print(errno.errorcode[ctypes.get_errno()])"
    )
    # /dev/null is no terminal; but that is only said of a request that was let through.
    let_through, *refused = isolating.run(code).stdout.split()
    assert let_through == b"ENOTTY" and len(refused) == 3 and set(refused) <= {b"ENOSYS", b"EPERM"}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="these are ways into a kernel for x86_64")
@pytest.mark.parametrize(
    ("machine_code", "way"),
    [
        ("b8 14 00 00 00 cd 80 c3", "of 32 bits, where 20 is getpid"),
        ("b8 27 00 00 40 0f 05 c3", "of x32, where 39 is getpid"),
    ],
    ids=["i386", "x32"],
)
def test_calls_of_another_architecture_are_not_served(isolating: Sandbox, machine_code: str, way: str) -> None:
    code = (
        "import ctypes, mmap, os\n"
        "page = mmap.mmap(-1, 4096, prot=7)\n"
        f"page.write(bytes.fromhex({machine_code!r}))\n"
        "call = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))\n"
        "print('begins', flush=True); print('served' if call() == os.getpid() else 'not served')"
    )
    result = isolating.run(code)
    assert result.stdout.startswith(b"begins\n") and b"\nserved" not in result.stdout, way


def in_a_forked_process(work: Callable[[], object]) -> str:
    """Return what work returns, or raises, in a process that is forked from this one."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, repr(work()).encode())
        except BaseException as error:  # noqa: BLE001 - it must not go on as a second test runner
            os.write(write, repr(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    ready = select.select([read], [], [], 60.0)[0]
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with os.fdopen(read) as file:
        return file.read() if ready else "it hangs"


def test_a_forked_process_can_have_a_sandbox_of_its_own(bubblewrap: Sandbox) -> None:
    assert bubblewrap.run("print(1)").ok

    def work() -> bytes:
        with make("bubblewrap", limits=LIMITS, preload=()) as own, own.session() as session:
            session.run("x = 5")
            with session.fork() as twin:
                return twin.run("x").stdout

    assert in_a_forked_process(work) == repr(b"5\n")


def test_a_process_without_descriptors_is_told_so_and_leaves_no_group_behind(bubblewrap: Sandbox) -> None:
    assert bubblewrap.run("print(1)").ok

    def work() -> str:
        with make("bubblewrap", limits=LIMITS, preload=()) as own:
            sessions = [own.session() for _ in range(40)]
            sessions[0].run("1")
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 20, hard))
            told = ""
            try:
                for session in sessions:
                    session.run("1")
            except SandboxError as error:
                told = str(error)
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            assert sessions[-1].run("print(1)").ok
        return f"{told} {len(left_over(find_hierarchy()))} left"

    said = in_a_forked_process(work)
    assert "Too many open files" in said and " 0 left" in said, said


def test_a_forked_process_that_throws_its_copy_away_ends_nothing(bubblewrap: Sandbox) -> None:
    sessions: list[Session] = [bubblewrap.session()]
    sessions[0].run("x = 1")

    def work() -> str:
        sessions[0].close()
        sessions.clear()
        gc.collect()
        bubblewrap._expire(0.0)  # type: ignore[attr-defined]
        return "done"

    assert in_a_forked_process(work) == "'done'"
    with sessions[0] as session:
        assert session.run("x").stdout == b"1\n"


def test_a_session_that_nobody_closed_ends_when_it_is_forgotten(bubblewrap: Sandbox) -> None:
    async def awaited(session: Session) -> None:
        await session.__aenter__()  # so that it is part of a circle, which only the collector of garbage finds

    session = bubblewrap.session()
    session.run("import subprocess; subprocess.Popen(['sleep', '300'])")
    asyncio.run(awaited(session))
    box = session._box  # type: ignore[attr-defined]
    [group] = {path.name for path in left_over(find_hierarchy()) if path.name in str(box._group._folders)}
    del session
    gc.collect()
    bubblewrap._expire(0.0)  # type: ignore[attr-defined]
    assert not [path for path in left_over(find_hierarchy()) if path.name == group]
    assert box._closed


def test_a_pool_whose_first_process_is_killed_is_replaced_at_once(request: pytest.FixtureRequest) -> None:
    with open_sandbox("bubblewrap", request, preload=()) as sandbox, sandbox.session() as session:
        session.run("x = 1")
        for _ in range(3):
            bwrap = sandbox._pool._process.pid  # type: ignore[attr-defined]
            [first] = Path(f"/proc/{bwrap}/task/{bwrap}/children").read_text().split()
            os.kill(int(first), signal.SIGKILL)
            assert sandbox.run("print(1)").stdout == b"1\n"
        with pytest.raises(SandboxError, match="gone"):
            session.run("x")
        assert session.run("'x' in globals()").stdout == b"False\n"


def test_a_time_that_the_kernel_cannot_wait_for_is_refused(sandbox: Sandbox) -> None:
    for seconds in (float("inf"), 1e300):
        with pytest.raises(ConfigError, match="at most 1,000,000"):
            sandbox.run("1", timeout=seconds)


def test_more_folders_than_a_process_may_have_open_are_walked(sandbox: Sandbox) -> None:
    made = "import os\nfor i in range(1500): os.mkdir(f'd{i}'); open(f'd{i}/f', 'w').write(str(i))"
    files = sandbox.run(made, collect=["d1499/f", "d0/*"], timeout=60.0).files
    assert files is not None and files.got == {"d0/f": b"0", "d1499/f": b"1499"} and not files.refused


def test_the_interpreter_inside_is_that_of_the_host(bubblewrap: Sandbox) -> None:
    assert bubblewrap.run("import sys; print(sys.version)").stdout.decode().strip() == sys.version
    inside = bubblewrap.run("python3 -c 'import sys, numpy; print(sys.version)'", language="bash")
    assert inside.stdout.decode().strip() == sys.version


def test_a_box_outlives_the_thread_that_began_it(bubblewrap: Sandbox) -> None:
    """The kernel ends a process with the *thread* that has started it, if it is to end with its parent."""
    sessions: list[Session] = []

    def begin() -> None:
        sessions.append(bubblewrap.session())
        sessions[0].run("x = 1")

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    with sessions[0] as session:
        assert session.run("x").stdout == b"1\n"
