"""Control groups, of version 2 on a tree of folders that imitates it: no machine of ours has one to try."""

import os
from pathlib import Path

import pytest

from agent_gym.sandbox.base import Limits
from agent_gym.sandbox.cgroups import (
    Group,
    Hierarchy,
    find_hierarchy,
    lives,
    memory_group_of,
    memory_kills,
    owner_label,
    sweep,
)

LIMITS = Limits(memory_bytes=1 << 20, processes=7, cpus=0.5)


@pytest.fixture
def unified(tmp_path: Path) -> tuple[Path, Path]:
    """A tree of version 2 in which this process is in a scope that was delegated to it."""
    root, own = tmp_path / "cgroup", tmp_path / "self"
    scope = root / "user.slice" / "our.scope"
    scope.mkdir(parents=True)
    for folder in (root, root / "user.slice", scope):
        (folder / "cgroup.procs").write_text("")
        (folder / "cgroup.subtree_control").write_text("cpu memory pids")
    (root / "cgroup.controllers").write_text("cpu memory pids")
    own.write_text("0::/user.slice/our.scope\n")
    return root, own


def test_of_version_2_the_delegated_group_is_found(unified: tuple[Path, Path]) -> None:
    root, own = unified
    hierarchy = find_hierarchy(root, own)
    assert hierarchy.version == 2 and not hierarchy.problem()
    assert hierarchy.distinct() == [root / "user.slice" / "our.scope"]


def test_a_group_that_does_not_hand_controllers_down_is_passed_over(unified: tuple[Path, Path]) -> None:
    root, own = unified
    (root / "user.slice" / "our.scope" / "cgroup.subtree_control").unlink()
    (root / "user.slice" / "our.scope" / "cgroup.subtree_control").mkdir()
    assert find_hierarchy(root, own).distinct() == [root / "user.slice"]


def test_without_any_tree_the_problem_is_named(tmp_path: Path) -> None:
    own = tmp_path / "self"
    own.write_text("")
    assert find_hierarchy(tmp_path, own).problem() == "no control group for memory and pids and cpu can be written"


def test_limits_are_written_in_the_words_of_version_2(unified: tuple[Path, Path]) -> None:
    root, own = unified
    hierarchy = find_hierarchy(root, own)
    group = Group(hierarchy, "1", LIMITS)
    [folder] = hierarchy.distinct()[0].glob("agent_gym-*")
    assert (folder / "memory.max").read_text() == str(1 << 20)
    assert (folder / "pids.max").read_text() == "8"
    assert (folder / "cpu.max").read_text() == "50000 100000"
    (folder / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert group.out_of_memory_kills() == 2 == memory_kills(folder)
    group.add(4711)
    assert (folder / "cgroup.procs").read_text() == "4711"


def test_limits_are_written_in_the_words_of_version_1(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("memory", "pids", "cpu")}
    for folder in folders.values():
        folder.mkdir()
    Group(Hierarchy(1, folders), "1", LIMITS)
    written = {path.name: path.read_text() for path in tmp_path.glob("*/agent_gym-*/*")}
    assert written["memory.limit_in_bytes"] == str(1 << 20)
    assert (written["cpu.cfs_period_us"], written["cpu.cfs_quota_us"]) == ("100000", "50000")


def test_a_label_lives_as_long_as_its_process_and_only_where_it_can_be_known() -> None:
    label = owner_label()
    pid, started, namespace = label.split(".")
    assert lives(label) and pid == str(os.getpid())
    assert not lives(f"{pid}.{int(started) + 1}.{namespace}")
    assert not lives(f"{2**22 + 1}.{started}.{namespace}")
    assert lives(f"{2**22 + 1}.{started}.{namespace}0"), "an owner in another container cannot be seen from here"


def test_the_groups_of_dead_owners_are_swept_wherever_they_are(tmp_path: Path) -> None:
    namespace = owner_label().split(".")[2]
    dead = tmp_path / "elsewhere" / f"agent_gym-{2**22 + 1}.1.{namespace}-1"
    alive = tmp_path / f"agent_gym-{owner_label()}-1"
    for group in (dead, alive):
        group.mkdir(parents=True)
    assert sweep(Hierarchy(2, {}, (tmp_path,))) == 1
    assert alive.exists() and not dead.exists()


def test_the_memory_group_of_a_process_is_found_in_either_version(tmp_path: Path) -> None:
    found = memory_group_of(os.getpid())
    assert found is None or found.is_relative_to("/sys/fs/cgroup")
    assert memory_group_of(2**22 + 1) is None
