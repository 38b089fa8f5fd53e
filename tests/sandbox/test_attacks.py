"""Hostile programs, in the sandboxes that isolate: each must run, and none may get anywhere.

A probe that has printed nothing has not run, which is a failure of the test and no success of the sandbox. Those that
are bounded also run without a sandbox, where they must get through: an attack that never does proves nothing.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sandboxes import open_sandbox

from agent_gym.sandbox import Limits, Result, Sandbox, Status

PORT = 47113
SERVICE = b"HOST-SERVICE"
SLACK = 20.0
"""Seconds that a sandbox may take beyond the time of the code, on a busy machine."""


@dataclass(frozen=True)
class Attack:
    """A program and what must come of it."""

    program: str
    probes: int
    """At least so many must have run."""
    status: tuple[Status, ...] = (Status.OK,)
    seconds: float = 10.0


ATTACKS = [
    Attack("a01_read_host_secret", 5),
    Attack("a02_env_secret", 2),
    Attack("a03_network", 8),
    Attack("a04_fork_bomb", 1, seconds=30.0),
    Attack("a05_memory_bomb", 1, (Status.OK, Status.OUT_OF_MEMORY), seconds=30.0),
    Attack("a06_disk_fill", 1, (Status.OK, Status.OUT_OF_MEMORY, Status.TIMEOUT), seconds=30.0),
    Attack("a07_ignore_sigterm", 1, (Status.TIMEOUT,), seconds=1.0),
    Attack("a08_daemon", 1),
    Attack("a10_proc_tricks", 11),
    Attack("a11_write_outside", 7),
    Attack("a12_ptrace", 2),
    Attack("a13_signals", 8),
    Attack("a21_raise_limits", 6),
    Attack("a22_leftovers", 6),
    Attack("a23_kernel_surface", 25),
    Attack("a26_terminal", 2),
    Attack("a27_supervisor", 9),
]
EXPECTED_BREACHES = {
    # No limit of these is raised in a container, where the control group takes their place.
    ("docker", "raise RLIMIT_AS"),
    ("docker", "raise RLIMIT_CPU"),
    ("docker", "raise RLIMIT_NPROC"),
    # Without privileges one may set a limit to what it is: here, none. The control group takes their place.
    ("bubblewrap", "raise RLIMIT_AS"),
    ("bubblewrap", "raise RLIMIT_CPU"),
    ("bubblewrap", "raise RLIMIT_NPROC"),
}
CONTROLS = [
    "a01_read_host_secret",
    "a02_env_secret",
    "a03_network",
    "a11_write_outside",
    "a12_ptrace",
]
"""Bounded ones, which must get through where there is no sandbox."""


@pytest.fixture(scope="session")
def victims(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What an attack is after: files, services, a process."""
    root = Path("/tmp") / f"agent_gym-victims-{os.getpid()}"
    for folder in (root, root / "hostsecret", root / "hostdir"):
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)
    (root / "hostsecret" / "secret.txt").write_text("HOST-SECRET")
    listeners = _listen(root)
    victim = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()", "sbx-victim-marker"],
        stdin=subprocess.PIPE,
        env={**os.environ, "SECRET_OF_THE_HOST": "ENV-SECRET"},
    )
    yield root
    assert victim.poll() is None, "the victim did not survive"
    assert sorted(path.name for path in (root / "hostdir").iterdir()) in ([], ["pwned"], ["pwned", "pwned2"])
    victim.kill()
    victim.wait()
    if victim.stdin:
        victim.stdin.close()
    for listener in listeners:
        listener.close()
    subprocess.run(["rm", "-rf", str(root)], check=True)


def _listen(root: Path) -> list[socket.socket]:
    listeners = []
    addresses: list[tuple[int, Any]] = [
        (socket.AF_INET, ("127.0.0.1", PORT)),
        (socket.AF_INET6, ("::1", PORT)),
        (socket.AF_UNIX, "\0sbx-abstract-test"),
        (socket.AF_UNIX, str(root / "host.sock")),
    ]
    for family, address in addresses:
        listener = socket.socket(family)
        try:
            listener.bind(address)
        except OSError:
            listener.close()  # no IPv6 here
            continue
        listener.listen()
        listeners.append(listener)
        threading.Thread(target=_serve, args=(listener,), daemon=True).start()
    (root / "host.sock").chmod(0o777)
    return listeners


def _serve(listener: socket.socket) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client:
            client.sendall(SERVICE)


def source(attacks: Path, program: str, root: Path) -> str:
    """Return the text of an attack."""
    parts = [f"import os; os.environ['ATTACK_ROOT'] = {str(root)!r}"]
    parts += [(attacks / name).read_text() for name in ("_common.py", f"{program}.py")]
    return "\n".join(parts)


def probes(result: Result) -> dict[str, dict[str, Any]]:
    """Return what the probes of an attack have said, by name."""
    lines = [line[2:] for line in result.stdout.decode("utf-8", "replace").splitlines() if line.startswith("@@")]
    return {found["probe"]: found for found in map(json.loads, lines)}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.program)
def test_an_attack_stays_inside(isolating: Sandbox, attack: Attack, attacks: Path, victims: Path) -> None:
    with isolating.session() as session:
        session.run("import os; kept = os.getpid()")
        started = time.monotonic()
        result = session.run(source(attacks, attack.program, victims), timeout=attack.seconds)
        assert time.monotonic() - started < attack.seconds + SLACK
        found = probes(result)
        if attack.status != (Status.OK, Status.OUT_OF_MEMORY) or result.status is Status.OK:
            assert len(found) >= attack.probes, (result.text, found)
        breaches = {name: told for name, told in found.items() if told["breach"]}
        expected = {probe for backend, probe in EXPECTED_BREACHES if backend == isolating.name}
        assert breaches.keys() <= expected, breaches
        assert result.status in attack.status, result
        assert session.run("print(6 * 7)").stdout == b"42\n"
    assert isolating.run("print(6 * 7)").stdout == b"42\n"
    assert not list((victims / "hostdir").glob("pwned*"))
    assert not _processes_with("sbx-daemon-marker")


@pytest.mark.parametrize("program", CONTROLS)
def test_without_a_sandbox_the_attack_gets_through(program: str, attacks: Path, victims: Path, tmp_path: Path) -> None:
    plain = subprocess.run(
        [sys.executable, "-c", source(attacks, program, victims)], capture_output=True, cwd=tmp_path, check=False
    )
    found = probes(Result(Status.OK, stdout=plain.stdout))
    assert any(told["breach"] for told in found.values()), found
    for path in ("/etc/sbx-pwned", "/usr/lib/sbx-pwned", "/usr/local/sbx-pwned", "/var/sbx-pwned"):
        Path(path).unlink(missing_ok=True)
    (Path(os.__file__).parent / "sbx_pwned.py").unlink(missing_ok=True)
    for left in (victims / "hostdir").glob("pwned*"):
        left.unlink()


def test_a_flood_of_output_costs_the_host_no_memory(isolating: Sandbox, attacks: Path, victims: Path) -> None:
    before = _own_memory()
    result = isolating.run(source(attacks, "a09_huge_stdout", victims), timeout=60.0)
    assert result.status is Status.OUTPUT_LIMIT and len(result.stdout) == isolating.limits.output_bytes
    assert _own_memory() - before < 64 << 20


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("a17_os_exit", Status.DIED),
        ("a18_sys_exit", Status.ERROR),
        ("a19_bytes_output", Status.OK),
        ("a20_deep_recursion", Status.DIED),
    ],
)
def test_an_unusual_end_is_told_as_what_it_is(
    isolating: Sandbox, program: str, status: Status, attacks: Path, victims: Path
) -> None:
    with isolating.session() as session:
        assert session.run(source(attacks, program, victims)).status is status
        assert session.run("print(1)").stdout == b"1\n"


def test_one_box_cannot_take_more_than_its_share_of_the_processors(
    request: pytest.FixtureRequest, attacks: Path, victims: Path
) -> None:
    with open_sandbox("bubblewrap", request, Limits(cpus=0.5), preload=()) as narrow:
        result = narrow.run(source(attacks, "a25_cpu_hog", victims), timeout=60.0)
        told = probes(result)["cpu-seconds in ~2 s"]
        assert float(told["detail"].split()[0]) < 2.6, told


FORGERIES = {
    "a done for every id": "for i in range(50): send({'done': i, 'exit': 0})",
    "two answers at once": "send({'done': 2, 'exit': 0}, {'done': 2, 'exit': 0})",
    "an exit code that is none": "send({'done': 2, 'exit': 'x' * 100})",
    "a number that is too large": "send({'done': 2, 'exit': 10 ** 400})",
    "a claim that is too long": "raw(struct.pack('>II', 1 << 30, 1 << 30))",
    "half a message": "raw(b'\\0\\0')\nimport time; time.sleep(60)",
    "no message at all": "raw(b'hello' * 1000)",
    "deep nesting": "body = b'[' * 100_000\nraw(struct.pack('>II', len(body), 0) + body)",
    "every descriptor closed": "os.closerange(0, 1024)",
}
PREPARED = (
    "import os, json, struct, stat\n"
    "def raw(data):\n"
    "    for fd in range(3, 64):\n"
    "        try:\n"
    "            if stat.S_ISSOCK(os.fstat(fd).st_mode): os.write(fd, data)\n"
    "        except OSError: pass\n"
    "def send(*messages):\n"
    "    raw(b''.join(struct.pack('>II', len(b), 0) + b for m in messages for b in [json.dumps(m).encode()]))\n"
)


@pytest.mark.parametrize("forgery", FORGERIES, ids=str)
def test_forged_messages_deceive_nobody_but_their_own_cell(isolating: Sandbox, forgery: str) -> None:
    with isolating.session() as session:
        session.run(PREPARED)
        forged = session.run(PREPARED + FORGERIES[forgery], timeout=2.0)
        assert forged.status in (Status.DIED, Status.TIMEOUT, Status.OK)
        for number in range(3):
            after = session.run(f"print({number})")
            assert after.stdout == f"{number}\n".encode() or after.status is Status.DIED
        assert session.run("print('sane')").stdout == b"sane\n"


def test_a_late_forgery_from_a_thread_is_told_as_a_death(isolating: Sandbox) -> None:
    with isolating.session() as session:
        late = "import threading\nsay = lambda: send({'done': 3, 'exit': 0}, {'done': 3, 'exit': 0})\n"
        late += "begun = threading.Event()\nthreading.Thread(target=lambda: (begun.wait(), say())).start()"
        session.run(PREPARED + late)
        hit = session.run("import time; begun.set(); time.sleep(1.5); print('end')", timeout=20.0)
        assert hit.status is Status.DIED
        assert session.run("print('sane')").stdout == b"sane\n"


def test_two_live_boxes_share_no_port_no_socket_and_no_memory(isolating: Sandbox) -> None:
    with isolating.session() as one, isolating.session() as two:
        make = (
            "import socket, ctypes\n"
            "s = socket.socket(); s.bind(('127.0.0.1', 8000)); s.listen()\n"
            "a = socket.socket(socket.AF_UNIX); a.bind('\\0shared'); a.listen()\n"
            "c = ctypes.CDLL(None); shm = c.shmget(77, 4096, 0o1666); print(shm >= 0)"
        )
        assert one.run(make).stdout == b"True\n"
        assert two.run(make).stdout == b"True\n", "the port, the name or the key was taken"
        look = "import os; print(c.shmget(78, 4096, 0), os.listdir('/dev/shm') + os.listdir('/tmp'))"
        one.run("open('/dev/shm/x', 'w').write('x'); open('/tmp/x', 'w').write('x'); c.shmget(78, 4096, 0o1666)")
        assert two.run(look).stdout == b"-1 []\n"


def _processes_with(marker: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def _own_memory() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
