"""Memory in every guise is counted against the box that takes it, and none of it is the host's."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandboxes import open_sandbox

from agent_gym.sandbox import Limits, Sandbox, Status

MIB = 1 << 20
LIMIT = 96 * MIB
BOMBS = {
    "the heap": "hoard = [bytes([1]) * MIB for _ in range(400)]",
    "files in memory": (
        "for i in range(20):\n  f = os.memfd_create('m')\n  for _ in range(20): os.write(f, bytes([1]) * MIB)"
    ),
    "folders": (
        "for d in ('/work', '/tmp', '/dev/shm'):\n"
        "  with open(f'{d}/f', 'wb', buffering=0) as f:\n"
        "    for _ in range(60): f.write(bytes([1]) * MIB)"
    ),
    "shared pages": "m = mmap.mmap(-1, 400 * MIB)\nfor i in range(0, len(m), 4096): m[i] = 1",
    "System V": (
        "c.shmat.restype = ctypes.c_void_p\n"
        "for i in range(1, 21):\n"
        "  a = c.shmat(c.shmget(i, 20 * MIB, 0o1600), None, 0); ctypes.memset(a, 1, 20 * MIB)"
    ),
    "pipes": (
        "import fcntl\nkeep = []\nwhile len(keep) < 240:\n"
        "  r, w = os.pipe(); fcntl.fcntl(w, 1031, MIB); os.set_blocking(w, False); keep.append(w)\n"
        "  try:\n    while True: os.write(w, bytes([1]) * 65536)\n"
        "  except BlockingIOError: pass"
    ),
    "sockets": (
        "import socket\nkeep = []\nwhile len(keep) < 240:\n"
        "  a, b = socket.socketpair(); a.setblocking(False); keep += [(a, b)]\n"
        "  try:\n    while True: a.send(bytes([1]) * 65536)\n"
        "  except BlockingIOError: pass"
    ),
    "many processes": (
        "for i in range(8):\n"
        "  if os.fork() == 0:\n    hoard = [bytes([1]) * MIB for _ in range(60)]; time.sleep(60)\n"
        "time.sleep(1)"
    ),
    "page tables": (
        "m = mmap.mmap(-1, 1 << 40, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, mmap.PROT_READ)\n"
        "m.madvise(mmap.MADV_NOHUGEPAGE)\nfor i in range(0, 200 << 30, 2 * MIB): m[i]"
    ),
    "the supervisor first": (
        "try: open('/proc/1/oom_score_adj', 'w').write('1000')\nexcept OSError: pass\n"
        "hoard = [bytes([1]) * MIB for _ in range(400)]"
    ),
}
"""Each takes, or would take, about 400 MiB."""


@pytest.fixture(scope="module")
def narrow(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with open_sandbox("bubblewrap", request, Limits(memory_bytes=LIMIT), preload=()) as sandbox:
        yield sandbox


@pytest.mark.parametrize("guise", BOMBS)
def test_memory_is_limited_in_every_guise(narrow: Sandbox, guise: str) -> None:
    before = _free()
    with narrow.session() as session:
        session.run("import ctypes, mmap, os, time; MIB = 1 << 20; c = ctypes.CDLL(None)")
        group = session._box._group  # type: ignore[attr-defined]
        result = session.run(BOMBS[guise], timeout=20.0)
        peak = group.peak_bytes()
        # What ended is the code or one of its processes; or it was told that there is no more.
        assert result.status in (Status.OUT_OF_MEMORY, Status.ERROR, Status.OK), result
        assert peak is not None and LIMIT // 2 < peak <= LIMIT, "either it took nothing, or too much"
        assert session.run("print(6 * 7)").stdout == b"42\n"
    assert narrow.run("print(6 * 7)").stdout == b"42\n"
    assert before - _free() < 2048 * MIB


def test_what_a_session_has_printed_is_not_kept_by_its_owner(narrow: Sandbox) -> None:
    loud = "import os; os.write(1, bytes([65]) * (1 << 20)); os.write(2, bytes([66]) * (1 << 20))"
    with narrow.session() as session:
        session.run(loud)
        gc.collect()
        before = _own()
        for _ in range(40):
            assert len(session.run(loud).stdout) == MIB
        gc.collect()
        assert _own() - before < 40 * MIB


def _free() -> int:
    return _kib("/proc/meminfo", "MemAvailable:")


def _own() -> int:
    return _kib("/proc/self/status", "VmRSS:")


def _kib(file: str, name: str) -> int:
    line = next(line for line in Path(file).read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
