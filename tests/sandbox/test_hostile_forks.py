"""Forks are where a box has privileges for a moment: code that lies in wait for that moment, above, beside and inside.

What code can do to the branches of its own session is written down here, too: they are below it, and it sees them.
"""

import select
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sandboxes import open_sandbox

from agent_gym.errors import ConfigError, SandboxError
from agent_gym.sandbox import Limits, Sandbox, Session, Status

MIB = 1 << 20


def said(session: Session, code: str) -> str:
    result = session.run(code)
    assert result.ok, result
    return result.stdout.decode().strip()


@pytest.fixture
def parent(bubblewrap: Sandbox) -> Iterator[Session]:
    with bubblewrap.session() as session:
        yield session


SPY = """
import os, time
if os.fork() == 0:
    log, me, seen = open('/work/spied', 'w', buffering=1), os.getpid(), 0
    log.write('begun\\n')
    while True:
        for name in os.listdir('/proc'):
            if not name.isdecimal() or int(name) == me:
                continue
            try:
                status = open(f'/proc/{name}/status').read()
                ours = 'Seccomp:\\t0' in status
                log.write(f'sees {ours}\\n') if ours and seen < 100 else None
                seen += ours
                file = os.open(f'/proc/{name}/mem', os.O_RDWR)
                where = int(open(f'/proc/{name}/maps').readline().split('-')[0], 16)
                os.pread(file, 1, where)
                if ours:
                    log.write(f'BREACH {status}\\n')
            except (OSError, ValueError):
                pass
"""


def test_no_process_of_ours_can_be_opened_by_code_further_up_while_a_branch_forks(parent: Session) -> None:
    parent.run(SPY)
    with parent.fork() as branch:
        for _ in range(4):
            with branch.fork() as twin:
                assert twin.run("1").ok
    log = said(parent, "print(open('/work/spied').read())").splitlines()
    assert log[0] == "begun" and "sees True" in log, "the spy has not seen any of our processes"
    assert not [line for line in log if line.startswith("BREACH")]


DESCRIPTORS = """
import os, json
kinds = {}
for name in os.listdir('/proc/self/fd'):
    try: kinds[int(name)] = os.readlink(f'/proc/self/fd/{name}').split(':')[0]
    except OSError: pass
print(json.dumps(sorted(kinds.values())))
"""


def test_a_new_worker_has_no_descriptor_of_its_supervisor_in_no_branch(parent: Session) -> None:
    expected = said(parent, DESCRIPTORS)
    assert expected.count("socket") == 1
    with parent.fork() as child, child.fork() as grandchild:
        for session in (parent, child, grandchild):
            assert said(session, DESCRIPTORS) == expected
            assert session.run("import os; os._exit(0)").status is Status.DIED
            assert said(session, DESCRIPTORS) == expected


CAPTURE = """
import os, select, sys
inside = sys.modules['inside']
enter, receive, namespaces = inside.kernel.enter, inside.worker.receive_all, []
def listen(channel, size):
    data, descriptors, sender = receive(channel, size)
    namespaces.extend(map(os.dup, descriptors[3:]))
    return data, descriptors, sender
inside.worker.receive_all = listen
def caps(pid): return int(open(f'/proc/{pid}/status').read().split('CapEff:')[1].split()[0], 16)
def attempt(kind):
    pid = os.fork()
    if pid == 0:
        try: enter(namespaces[0], kind)
        except OSError as error: os._exit(error.errno)
        import time; time.sleep(60)
    return pid
"""
USER = 0x10000000


def test_namespaces_that_code_has_kept_cannot_be_entered_afterwards(parent: Session) -> None:
    parent.run(CAPTURE)
    with parent.fork() as child:
        assert child.run("1").ok
        assert int(said(parent, "len(namespaces)")) == 5
        parent.run(f"late, asked = attempt({USER}), attempt(0)")
        # Without a kind, the call does not exist; with one, it waits for somebody who never comes.
        assert said(parent, "os.waitstatus_to_exitcode(os.waitpid(asked, 0)[1])") == "38"
        assert said(parent, "bool(select.select([os.pidfd_open(late)], [], [], 0.3)[0]), caps(late)") == "(False, 0)"
        with parent.fork() as second:
            # It was let through with the second fork's own call, and paid for it.
            assert said(parent, "os.waitstatus_to_exitcode(os.waitpid(late, 0)[1])") == "-9"
            assert second.run("2").ok and child.run("3").ok


HOARD = """
import ctypes, os, sys, threading, time
kernel = sys.modules['inside'].kernel
drop = kernel.drop_capabilities
def keep_in_a_thread():
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    drop()
def keep_in_a_child():
    if os.fork() == 0: os.setsid(); time.sleep(60)
    drop()
kernel.drop_capabilities = {how}
"""
PRIVILEGED = """
import glob
found = []
for path in glob.glob('/proc/[0-9]*/task/*/status'):
    try: status = open(path).read()
    except OSError: continue
    if 'Seccomp:\\t2' in status and 'Z (z' not in status and int(status.split('CapEff:')[1].split()[0], 16):
        found.append(path)
print(found)
"""


@pytest.mark.parametrize("how", ["keep_in_a_thread", "keep_in_a_child", "lambda: None"])
def test_privileges_that_a_twin_keeps_are_its_end(parent: Session, how: str) -> None:
    parent.run(HOARD.format(how=how))
    try:
        child = parent.fork()
    except SandboxError:
        assert how != "keep_in_a_child"  # its worker was ended before the host had heard of it
    else:
        with child:
            # Where the worker itself has kept some, the branch has another one by now.
            assert child.run("1").restarted == (how != "keep_in_a_child")
            assert said(child, PRIVILEGED) == "[]"
    assert said(parent, PRIVILEGED) == "[]"


def test_a_twin_that_forges_its_arrival_gets_no_box(parent: Session) -> None:
    parent.run(
        "import sys\nworker = sys.modules['inside'].worker\n"
        "def forged(self, descriptors):\n"
        "    import os\n"
        "    for descriptor in descriptors[:3]: os.write(descriptor, b'!')\n"
        "    self._channel.sendall(worker.frames.pack({'forked': True}))\n"
        "worker.Worker._fork = forged"
    )
    with pytest.raises(SandboxError, match="could not be forked"):
        parent.fork()
    assert parent.run("print(1)").status in (Status.OK, Status.DIED)
    assert parent.run("print(1)").stdout == b"1\n"


def test_a_worker_that_has_stopped_itself_is_woken_for_a_fork(parent: Session) -> None:
    parent.run("import os, signal, threading; x = 1")
    parent.run("threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGSTOP]).start()")
    _wait_until_stopped(parent)
    with parent.fork() as child:
        assert said(child, "x") == said(parent, "x") == "1"


def _wait_until_stopped(session: Session) -> None:
    """Wait for the state of a session's worker, which is the only child of the first process of its box."""
    pidfd = session._box._pidfd  # type: ignore[attr-defined]
    info = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    pid = next(line.split()[1] for line in info.splitlines() if line.startswith("Pid:"))
    [worker] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    stat = Path(f"/proc/{worker}/stat")
    deadline = time.monotonic() + 30.0
    while stat.read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline
        select.select([], [], [], 0.01)


def test_code_that_ignores_the_end_of_children_forks_and_runs_bash(parent: Session) -> None:
    parent.run("import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); x = 1")
    assert parent.run("exit 3", language="bash").exit_code == 3
    with parent.fork() as child:
        assert said(child, "x") == "1"
    assert said(parent, "x, signal.getsignal(signal.SIGCHLD).name") == "(1, 'SIG_IGN')"


def test_a_session_that_has_used_up_its_processes_is_told_so_and_goes_on(parent: Session) -> None:
    parent.run(
        "import os, time\nkids = []\ntry:\n  while True:\n    pid = os.fork()\n    if pid == 0: time.sleep(600)\n"
        "    kids.append(pid)\nexcept OSError: pass"
    )
    count = said(parent, "len(kids)")
    assert int(count) > 10
    for use in (lambda: parent.write_files({"a": b"x"}), parent.read_files, parent.fork):
        try:
            use()
        except (ConfigError, SandboxError) as error:
            assert "cannot be written" in str(error) or "could not be forked" in str(error), error
    assert said(parent, "len(kids)") == count


def test_a_branch_pays_for_its_own_copies(request: pytest.FixtureRequest) -> None:
    limits = Limits(memory_bytes=256 * MIB, disk_bytes=40 * MIB)
    fill = "for d in ('/work', '/tmp', '/dev/shm'): open(f'{d}/fill', 'wb').write(bytes([1]) * (36 << 20))\nx = 5"
    with open_sandbox("bubblewrap", request, limits, preload=()) as sandbox, sandbox.session() as session:
        session.run(fill)
        branches = [session.fork() for _ in range(4)]
        assert [said(branch, "x, __import__('os').path.getsize('/tmp/fill')") for branch in branches] == (
            [f"(5, {36 << 20})"] * 4
        )
        assert said(session, "x") == "5"
        for branch in branches:
            branch.close()


def test_a_tree_deeper_than_any_path_is_copied_and_refused_to_the_host(parent: Session) -> None:
    parent.run(
        "import os\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')\nopen('f', 'w').write('deep'); os.chdir('/work')"
    )
    with parent.fork() as child:
        child.run("n = 0\nwhile os.path.isdir('d'): os.chdir('d'); n += 1")
        assert said(child, "n, open('f').read()") == "(3000, 'deep')"
        files = child.read_files()
        assert list(files.refused.values()) == ["too deep"] and not files.got


def test_what_is_open_or_shared_belongs_to_one_side_alone(parent: Session) -> None:
    parent.run(
        "import mmap, os, socket, subprocess, numpy\n"
        "from multiprocessing.shared_memory import SharedMemory\n"
        "page = mmap.mmap(-1, 3 << 20); page[5] = 1; page[-1] = 7\n"
        "shared = SharedMemory(create=True, size=100); shared.buf[0] = 1\n"
        "array = numpy.memmap('array', dtype='u1', mode='w+', shape=(100,)); array[0] = 1\n"
        "folder = os.open('.', os.O_RDONLY | os.O_DIRECTORY)\n"
        "cat = subprocess.Popen(['cat'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "reader, writer = os.pipe(); kept = os.dup(1)\n"
        "server = socket.create_server(('127.0.0.1', 8000)); a, b = socket.socketpair()\n"
    )
    with parent.fork() as child:
        same = "page[5], page[-1], shared.buf[0], int(array[0])"
        assert said(child, same) == "(1, 7, 1, 1)"
        child.run(
            "page[5] = shared.buf[0] = array[0] = 2; array.flush()\n"
            "os.close(os.open('new', os.O_CREAT | os.O_WRONLY, dir_fd=folder))"
        )
        assert said(parent, same) == "(1, 7, 1, 1)" and said(child, same) == "(2, 7, 2, 2)"
        assert said(parent, "os.listdir('.'), open('array', 'rb').read(1)") == "(['array'], b'\\x01')"
        assert said(child, "sorted(os.listdir(folder)), open('array', 'rb').read(1)") == "(['array', 'new'], b'\\x02')"
        # What the child says does not reach the parent's process, and a pipe that both ends of are here still works.
        assert b"BrokenPipeError" in child.run("cat.stdin.write(b'child'); cat.stdin.flush()").stderr
        assert (
            said(child, "os.write(writer, b'x'), os.read(reader, 5), a.send(b'y'), b.recv(5)") == "(1, b'x', 1, b'y')"
        )
        assert said(child, "os.write(kept, b'out '); print('too')") == "out too"
        assert b"OSError" in child.run("server.accept()", timeout=5.0).stderr
        assert said(child, "socket.create_server(('127.0.0.1', 8000)).getsockname()[1]") == "8000"
        assert said(parent, "cat.stdin.write(b'ok'); cat.stdin.close(); cat.stdout.read()") == "b'ok'"


def test_a_folder_that_was_removed_under_the_code_does_not_keep_it_from_being_forked(parent: Session) -> None:
    parent.run("import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('/work/gone')")
    with parent.fork() as child:
        assert said(child, "os.getcwd()") == "'/work'"


def test_branches_fork_at_the_same_time(bubblewrap: Sandbox) -> None:
    def use(branch: Session) -> str:
        for _ in range(2):
            with branch.fork() as twin:
                assert said(twin, "x") == "1"
            assert said(branch, "x") == "1"
        return said(branch, "x")

    with bubblewrap.session() as root:
        root.run("x = 1")
        branches = [root.fork() for _ in range(4)]
        with ThreadPoolExecutor(5) as pool:
            cells = pool.submit(lambda: [said(root, "x") for _ in range(40)])
            assert list(pool.map(use, branches)) == ["1"] * 4 and cells.result() == ["1"] * 40
        for branch in branches:
            branch.close()


CROWDS = {
    "spins": "for _ in range(50):\n  if os.fork() == 0:\n    while True: pass\nwhile True: pass",
    "breeds": "while True:\n  try: os.fork()\n  except OSError: pass",
    "breeds and dies": (
        "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True:\n"
        "  try:\n    if os.fork() and os.getpid() % 2: os._exit(0)\n  except OSError: pass"
    ),
    "cannot be stopped": (
        "import ctypes, time\nif os.fork() == 0:\n"
        "  if ctypes.CDLL(None).syscall({'x86_64': 56, 'aarch64': 220}[os.uname().machine], 0x4011, 0, 0, 0, 0) == 0:\n"
        "    time.sleep(600)\nwhile True: pass"
    ),
}
"""The last one waits for a child of `vfork`, which takes its time."""


@pytest.mark.parametrize("crowd", CROWDS)
def test_a_crowd_is_ended_and_the_branches_live_on(parent: Session, crowd: str) -> None:
    parent.run("import os; x = 1")
    with parent.fork() as child:
        late = parent.run(CROWDS[crowd], timeout=0.7)
        assert late.restarted and not late.files_lost
        assert said(child, "x") == "1" and said(parent, "'x' in globals()") == "False"


BELOW = """
import os, signal
seen = [p for p in os.listdir('/proc') if p.isdecimal() and len([l for l in open(f'/proc/{p}/status')
        if l.startswith('NSpid')][0].split()) > 2]
"""


def test_code_can_end_the_branches_of_its_own_session_and_nothing_else(bubblewrap: Sandbox) -> None:
    """Namespaces of processes nest, so that a parent sees its branches: that is how far it gets."""
    with bubblewrap.session() as stranger, bubblewrap.session() as root:
        stranger.run("x = 'stranger'")
        root.run("x = 'root'")
        with root.fork() as child, child.fork() as grandchild:
            assert said(grandchild, BELOW + "print(len(seen))") == "0"
            assert said(child, BELOW + "print(len(seen))") == "2"
            child.run("os.kill(-1, signal.SIGKILL)")
            with pytest.raises(SandboxError, match="gone"):
                grandchild.run("1")
            assert said(root, "x") == "'root'" and said(stranger, "x") == "'stranger'"
            assert said(grandchild, "'afresh'") == "'afresh'"
