"""The system calls that untrusted code may make: an allow-list, for bubblewrap and Docker alike.

What is not named answers "not implemented" (ENOSYS), at which libraries turn to an older way; under Docker before 23,
whose profiles cannot say so, "not permitted" (EPERM).
"""

from functools import cache
from typing import Any

from agent_gym.errors import SandboxUnavailable
from agent_gym.sandbox.inside import kernel

_FILES = frozenset(
    """
    access chdir chmod close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
    fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat chown lchown fcntl fdatasync fgetxattr flistxattr
    flock fsetxattr fremovexattr fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch lgetxattr link linkat listxattr llistxattr
    lremovexattr lseek lsetxattr lstat memfd_create mkdir mkdirat mknod mknodat newfstatat open openat openat2
    pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv removexattr rename
    renameat renameat2 rmdir sendfile setxattr splice stat statfs statx symlink symlinkat sync sync_file_range
    syncfs tee truncate umask unlink unlinkat utime utimensat utimes write writev
    """.split()  # noqa: SIM905 - a hundred literals are not easier to read
)

_MEMORY = frozenset(
    """
    brk madvise membarrier mincore mlock mlock2 mlockall mmap mprotect mremap msync munlock munlockall munmap
    pkey_alloc pkey_free pkey_mprotect
    """.split()  # noqa: SIM905 - a hundred literals are not easier to read
)

_PROCESSES = frozenset(
    """
    arch_prctl capget capset execve execveat exit exit_group fork vfork getegid geteuid getgid getgroups getpgid
    getpgrp getpid getppid getpriority getresgid getresuid getrlimit getrusage getsid gettid getuid kill pidfd_open
    pidfd_send_signal prctl rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
    rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo set_robust_list get_robust_list set_tid_address setpgid setsid
    setrlimit sigaltstack tgkill tkill wait4 waitid restart_syscall seccomp sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_yield getcpu sysinfo uname times getrandom ioprio_get setuid setgid setreuid setregid setresuid setresgid
    setfsuid setfsgid
    """.split()  # noqa: SIM905 - a hundred literals are not easier to read
)

_WAITING = frozenset(
    """
    alarm clock_getres clock_gettime clock_nanosleep epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2
    epoll_wait eventfd eventfd2 futex futex_waitv futex_wait futex_wake futex_requeue getitimer gettimeofday
    nanosleep pause pipe pipe2 poll ppoll pselect6 select setitimer signalfd signalfd4 time timer_create
    timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime
    """.split()  # noqa: SIM905 - a hundred literals are not easier to read
)

_COMMUNICATION = frozenset(
    """
    accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg
    sendto setsockopt shutdown msgctl msgget msgrcv msgsnd semctl semget semop semtimedop shmat shmctl shmdt shmget
    mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink
    """.split()  # noqa: SIM905 - a hundred literals are not easier to read
)

ALLOWED = tuple(sorted({*_FILES, *_MEMORY, *_PROCESSES, *_WAITING, *_COMMUNICATION}))
"""Allowed whatever their arguments are."""

_NAMESPACE_FLAGS = 0x7E020000
"""What `clone` must not be asked for: a new namespace of any kind."""
_FAMILIES = {"unix": 1, "inet": 2, "inet6": 10}
_FAKE_INPUT = 0x5412
"""What `ioctl` must not be asked for: putting characters into a terminal (TIOCSTI)."""
_BITS = [1 << bit for bit in range(32)]
"""The kernel only looks at so many of the request, so that comparing all 64 would let it through with another bit set:
allowed is what differs in one of these."""
OWN_PROCESS_ONLY = ("prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr")
"""Allowed for the calling process, which they know as 0, and for no other: not the supervisor, say."""

GATED = "setns"
"""With one of the kinds that boxes have, it waits until the supervisor lets it through, which it only does while it
forks the session; otherwise, and in Docker, it is not implemented."""


@cache
def bpf_program() -> bytes:
    """Return the list as a program for the kernel.

    Raises:
        SandboxUnavailable: libseccomp is not installed.
    """
    import os

    try:
        import pyseccomp
    except (ImportError, OSError, RuntimeError) as error:
        raise SandboxUnavailable(
            f"libseccomp cannot be used ({error}): apt-get install libseccomp2, and pip install pyseccomp."
        ) from error
    rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(38))
    equal, masked = pyseccomp.EQ, pyseccomp.MASKED_EQ
    for name in ALLOWED:
        if _known(pyseccomp, name):
            rules.add_rule(pyseccomp.ALLOW, name)
    for name in OWN_PROCESS_ONLY:
        rules.add_rule(pyseccomp.ALLOW, name, pyseccomp.Arg(0, equal, 0))
    for kind in kernel.NAMESPACES.values():
        rules.add_rule(pyseccomp.NOTIFY, GATED, pyseccomp.Arg(1, equal, kind))
    rules.add_rule(pyseccomp.ALLOW, "clone", pyseccomp.Arg(0, masked, _NAMESPACE_FLAGS, 0))
    rules.add_rule(pyseccomp.ALLOW, "setpriority", pyseccomp.Arg(1, equal, 0))
    rules.add_rule(pyseccomp.ALLOW, "personality", pyseccomp.Arg(0, equal, 0xFFFFFFFF))
    for family in _FAMILIES.values():
        for name in ("socket", "socketpair"):
            rules.add_rule(pyseccomp.ALLOW, name, pyseccomp.Arg(0, equal, family))
    for bit in _BITS:
        rules.add_rule(pyseccomp.ALLOW, "ioctl", pyseccomp.Arg(1, masked, bit, ~_FAKE_INPUT & bit))
    descriptor = os.memfd_create("seccomp")
    with open(descriptor, "w+b") as file:  # noqa: PTH123 - a descriptor, no path
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def docker_profile() -> dict[str, Any]:
    """Return the list as Docker's `security_opt` takes it."""
    allow = "SCMP_ACT_ALLOW"

    def equal(index: int, value: int) -> dict[str, Any]:
        return {"index": index, "value": value, "op": "SCMP_CMP_EQ"}

    def masked(index: int, mask: int, value: int) -> dict[str, Any]:
        return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}

    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "syscalls": [
            {"names": list(ALLOWED), "action": allow},
            {"names": list(OWN_PROCESS_ONLY), "action": allow, "args": [equal(0, 0)]},
            {"names": ["clone"], "action": allow, "args": [masked(0, _NAMESPACE_FLAGS, 0)]},
            {"names": ["setpriority"], "action": allow, "args": [equal(1, 0)]},
            # Older daemons answer "not permitted" whatever is said above, at which the C library gives up on a process.
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": ["personality"], "action": allow, "args": [equal(0, 0xFFFFFFFF)]},
            *({"names": ["ioctl"], "action": allow, "args": [masked(1, bit, ~_FAKE_INPUT & bit)]} for bit in _BITS),
            *(
                {"names": ["socket", "socketpair"], "action": allow, "args": [equal(0, family)]}
                for family in _FAMILIES.values()
            ),
        ],
    }


def _known(pyseccomp: Any, name: str) -> bool:
    """Return whether this architecture, and this version of libseccomp, has a system call of that name."""
    return bool(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) >= 0)
