"""The list of allowed system calls: what must not be on it, and that both of its forms say the same."""

import struct

import pytest

from agent_gym.errors import SandboxUnavailable
from agent_gym.sandbox.seccomp import ALLOWED, OWN_PROCESS_ONLY, bpf_program, docker_profile

FORBIDDEN = [
    "unshare",
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "bpf",
    "perf_event_open",
    "io_uring_setup",
    "io_uring_enter",
    "userfaultfd",
    "keyctl",
    "add_key",
    "request_key",
    "kexec_load",
    "init_module",
    "finit_module",
    "open_by_handle_at",
    "name_to_handle_at",
    "clone3",
    "pidfd_getfd",
    "fsopen",
    "fsmount",
    "open_tree",
    "move_mount",
    "quotactl",
    "swapon",
    "reboot",
    "sethostname",
    "acct",
    "settimeofday",
    "iopl",
    "ioperm",
    "kcmp",
    "vmsplice",
    "modify_ldt",
    "syslog",
    "personality",
    "ioctl",
    "socket",
    "clone",
]


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_dangerous_call_is_not_allowed_whatever_its_arguments(name: str) -> None:
    assert name not in ALLOWED and name not in OWN_PROCESS_ONLY


def test_docker_is_told_the_same_list() -> None:
    profile = docker_profile()
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO" and profile["defaultErrnoRet"] == 38
    free = {name for rule in profile["syscalls"] if not rule.get("args") for name in rule["names"]}
    assert free - {"clone3"} == set(ALLOWED)
    [clone3] = [rule for rule in profile["syscalls"] if rule["names"] == ["clone3"]]
    assert clone3["action"] == "SCMP_ACT_ERRNO"


def test_the_program_is_one_that_the_kernel_can_load() -> None:
    try:
        program = bpf_program()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    assert len(program) % 8 == 0 and 100 < len(program) // 8 <= 4096
    returns = [value for code, _, _, value in struct.iter_unpack("<HBBI", program) if code == 0x06]
    # Allowed; "not implemented"; asked of the supervisor (entering a namespace, for a fork); and the death of whoever
    # comes with calls of another architecture.
    allowed, missing, asked, dead = 0x7FFF0000, 0x00050000 | 38, 0x7FC00000, 0
    assert {allowed, missing} <= set(returns) <= {allowed, missing, asked, dead}
