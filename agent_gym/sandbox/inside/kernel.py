"""The system calls that Python's standard library does not have (in 3.11), by ctypes."""

from __future__ import annotations

import _signal
import _socket
import ctypes
import errno
import fcntl
import os
import resource
import struct
import time

NAMESPACES = {"user": 0x10000000, "mnt": 0x00020000, "pid": 0x20000000, "ipc": 0x08000000, "net": 0x40000000}
"""Those that a box has, by their names in /proc: that of users comes first, since it opens the others."""

NO_SUID, NO_DEVICES, NO_EXEC = 2, 4, 8
_MOVE, _PRIVATE, _RECURSIVE = 8192, 1 << 18, 16384
_SET_DUMPABLE, _SET_NO_NEW_PRIVILEGES, _SET_SUBREAPER = 4, 38, 36
_SECCOMP_FILTER, _NEW_LISTENER = 1, 8
_SET_INTERFACE_FLAGS, _INTERFACE_UP = 0x8914, 1
_CAPABILITY_VERSION_3 = 0x20080522

_CLONE = {"x86_64": 56, "aarch64": 220}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
"""The numbers of the system calls, by architecture."""

_NOTIFICATION = struct.Struct("=QII64x")
"""A call that waits for permission: its id, the process, and much that is not looked at."""
_PERMISSION = struct.Struct("=QqiI")
_RECEIVE_NOTIFICATION, _SEND_PERMISSION = 0xC0502100, 0xC0182101
_LET_IT_CONTINUE = 1

_DESCRIPTORS = 512
"""What code may have open. In sockets it can have half as many again under way, and the kernel counts those of a user:
even where that is the user of the host, who may have 1024 by default, there is room left."""

_READ, _WRITE = 1, 2
_SHARED, _FIXED, _ANONYMOUS = 1, 16, 32
_MAY_MOVE, _TO_THERE = 1, 2
_PIECE = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.argtypes = (*(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long),)
_libc.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.mmap.restype = _libc.mremap.restype = ctypes.c_void_p
_python = ctypes.PyDLL(None, use_errno=True)
"""Calls that must not let go of the interpreter."""


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _check(outcome: int, what: str) -> None:
    if outcome < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _check_address(address: int | None) -> None:
    if address == ctypes.c_void_p(-1).value:
        _check(-1, "mmap")


def fork_into_namespaces(user: int) -> int:
    """Fork; the child is the first process of new namespaces, is `user` there, and has all capabilities in them.

    Forking first and leaving the namespaces then takes one more fork, and with large libraries loaded a fork is most of
    what a box costs. The C library does not see this one and goes on with the old thread id, which only matters to
    threads and to `abort`; it is right again in the child's own children.

    Returns:
        The child's process id, and 0 in the child.
    """
    number = _CLONE.get(os.uname().machine)
    if number is None:
        raise OSError(f"boxes cannot be made on {os.uname().machine}")
    outer_user, outer_group = os.getuid(), os.getgid()
    _python.PyOS_BeforeFork()
    pid = int(_python.syscall(number, sum(NAMESPACES.values()) | _signal.SIGCHLD, None, None, None, None))
    if pid:
        _python.PyOS_AfterFork_Parent()
        _check(pid, "clone")
        return pid
    _python.PyOS_AfterFork_Child()
    for file, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {outer_user} 1"),
        ("gid_map", f"{user} {outer_group} 1"),
    ):
        with open(f"/proc/self/{file}", "w") as out:
            out.write(line)
    return 0


def open_namespaces() -> list[int]:
    """Return descriptors of this process's namespaces, in the order of `NAMESPACES`."""
    return [os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in NAMESPACES]


def enter(namespace: int, kind: int) -> None:
    """Enter a namespace of some kind; of processes, only children will be in it."""
    _check(_libc.setns(namespace, kind), "setns")


def mount(kind: str, target: str, options: str = "", flags: int = NO_SUID | NO_DEVICES) -> None:
    """Mount a file system of a kind ("tmpfs", "proc")."""
    _check(
        _libc.mount(kind.encode(), target.encode(), kind.encode(), flags, options.encode() or None), f"mount {target}"
    )


def make_mounts_private() -> None:
    """Let nothing that is mounted from now on be seen elsewhere."""
    _check(_libc.mount(None, b"/", None, _PRIVATE | _RECURSIVE, None), "mount /")


def move_mount(source: str, target: str) -> None:
    """Move a mounted file system to another place."""
    _check(_libc.mount(source.encode(), target.encode(), None, _MOVE, None), f"move {target}")


def map_file(start: int, length: int, protection: int, file: int, offset: int) -> None:
    """Map a file to a place where something else is mapped now, and share it."""
    _check_address(_libc.mmap(start, length, protection, _SHARED | _FIXED, file, offset))


def map_copy(start: int, length: int, protection: int) -> None:
    """Replace shared memory by a copy of it, which is shared with nobody yet."""
    copy = _libc.mmap(None, length, _READ | _WRITE, _SHARED | _ANONYMOUS, -1, 0)
    _check_address(copy)
    memory = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)
    try:
        for done in range(0, length, _PIECE):
            os.pwrite(memory, os.pread(memory, min(_PIECE, length - done), start + done), copy + done)
    except OSError:
        pass  # what cannot be read, such as the end of a file that was cut off, is empty
    finally:
        os.close(memory)
    _check_address(_libc.mremap(copy, length, length, _MAY_MOVE | _TO_THERE, start))
    _check(_libc.mprotect(start, length, protection), "mprotect")


def raise_loopback() -> None:
    """Bring the loopback interface of this network namespace up: the only one that there is."""
    any_socket = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    fcntl.ioctl(any_socket.fileno(), _SET_INTERFACE_FLAGS, struct.pack("16sH14x", b"lo", _INTERFACE_UP))
    any_socket.close()


def drop_capabilities() -> None:
    """Give all capabilities up, for ever."""
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(ctypes.byref(header), (_CapabilityData * 2)()), "capset")
    _check(_libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no_new_privs")


def install_filter(program: bytes, *, listen: bool) -> int | None:
    """Allow only the system calls that a BPF program allows; needs `drop_capabilities` first.

    Args:
        program: The program.
        listen: Return a descriptor where calls wait that are allowed only now and then; they are refused otherwise.
    """
    code = ctypes.create_string_buffer(program, len(program))
    described = _Program(len(program) // 8, ctypes.cast(code, ctypes.c_void_p))
    flags = _NEW_LISTENER if listen else 0
    listener = int(_libc.syscall(_SECCOMP[os.uname().machine], _SECCOMP_FILTER, flags, ctypes.byref(described)))
    _check(listener, "seccomp")
    return listener if listen else None


def answer_call(listener: int, *, allow: bool) -> None:
    """Let a call go on that waits, or refuse it; those of processes that cannot be seen from here are refused."""
    notification = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, _RECEIVE_NOTIFICATION, notification)
        number, pid, _ = _NOTIFICATION.unpack(notification)
        answer = (number, 0, 0, _LET_IT_CONTINUE) if pid and allow else (number, 0, -errno.EPERM, 0)
        fcntl.ioctl(listener, _SEND_PERMISSION, _PERMISSION.pack(*answer))
    except FileNotFoundError:
        pass  # it was killed while it waited


def hide() -> None:
    """Keep other processes of the same user from reading or tracing this one, and from interrupting it.

    As pid 1 it then gets no signal at all from inside its namespace.
    """
    _check(_libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0), "prctl")
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def adopt_orphans() -> None:
    """Become the parent of all descendants whose own parent ends."""
    _check(_libc.prctl(_SET_SUBREAPER, 1, 0, 0, 0), "prctl")


def limit_resources(file_bytes: int, address_space: int | None) -> None:
    """Set the limits of this process and its children.

    Args:
        file_bytes: The largest file.
        address_space: Bytes a process may map; None where a control group limits memory.
    """
    descriptors = min(_DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2)
    wanted = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: file_bytes, resource.RLIMIT_NOFILE: descriptors}
    if address_space is not None:
        wanted[resource.RLIMIT_AS] = address_space
    for kind, value in wanted.items():
        hard = resource.getrlimit(kind)[1]
        ceiling = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (ceiling, ceiling))


def take_descriptors() -> None:
    """Allow this process as many descriptors as it may have.

    Those under way in sockets count for all boxes of a user together: code, which may have half of them at most, cannot
    keep a supervisor from sending one.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def be_the_first_to_go() -> None:
    """Have the kernel choose this process, not its supervisor, when memory runs out."""
    try:
        with open("/proc/self/oom_score_adj", "w") as out:
            out.write("1000")
    except OSError:
        # A kernel without it kills the largest process, which is the worker most of the time.
        pass


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, 0 when it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def pid_namespace_depth(pid: int) -> int:
    """Return how many process namespaces, from that of /proc downwards, a process is in; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("NSpid:"):
                    return len(line.split()) - 1
    except OSError:
        pass
    return 0


def is_privileged(pid: int) -> bool:
    """Return whether a thread of a process has capabilities though its system calls are limited.

    It is no process of ours then: those give their capabilities up first.
    """
    try:
        return any(_is_privileged(f"/proc/{pid}/task/{thread}/status") for thread in os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return False  # it is gone


def _is_privileged(status: str) -> bool:
    try:
        with open(status) as file:
            said = dict(line.split(":", 1) for line in file if ":" in line)
    except OSError:
        return False
    ours, gone = said["Seccomp"].strip() == "0", said["State"].strip()[0] in "ZX"
    return not ours and not gone and any(int(said[name], 16) for name in ("CapEff", "CapPrm", "CapAmb"))
