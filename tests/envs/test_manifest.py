"""Manifests: a change is told with its task, turn and version; what we ship says what it said when it was recorded."""

import importlib.util
import random
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agent_gym import registry
from agent_gym.env import State, Task, TextEnv
from agent_gym.envs.conformance import NotApplicableError, conform
from agent_gym.envs.manifest import Manifest, check_manifest, find_manifest, manifest_path, record
from agent_gym.errors import ManifestError

PACKAGE = Path(__file__).parents[2] / "agent_gym"
NEEDED = {
    "webshop": ("bm25s", "rapidfuzz"),
    "textworld": ("textworld",),
    "scienceworld": ("scienceworld",),
    "textarena": ("textarena",),
    "reasoning-gym": ("reasoning_gym",),
}
"""The modules without which a shipped environment cannot be played."""
SLOW = ("textworld", "scienceworld")


class Ladder(TextEnv):
    """Climb three rungs; what it says, pays and allows can be changed for a test."""

    requirements: ClassVar[tuple[str, ...]] = ("pydantic",)
    answer = "you stand on rung {}"
    rung_is_worth = 0.25
    rungs = 3
    allowed: ClassVar[list[str]] = ["climb", "wait"]
    files: ClassVar[dict[str, Path]] = {}

    def data_files(self) -> dict[str, Path]:
        return self.files

    def tasks(self, split: str) -> Any:
        return [Task(f"ladder {number}", split) for number in range(4)]

    def _start(self, task: Any, rng: random.Random) -> tuple[str, State]:
        self.rung = 0
        return f"this is {task.id}", self._state(0.0)

    def _act(self, action: str) -> tuple[str, State]:
        if action == "climb":
            self.rung += 1
        return self.answer.format(self.rung), self._state(self.rung_is_worth)

    def expert(self) -> Any:
        return iter(["climb"] * 3)

    def _state(self, reward: float) -> State:
        top = self.rung == self.rungs
        return State("climb", reward=reward, terminated=top, success=top, admissible=lambda: list(self.allowed))


class Clueless(Ladder):
    """Has no expert."""

    def expert(self) -> None:
        return None


class Jumbled(Ladder):
    """Words come in any order."""

    def same_observation(self, expected: str, found: str) -> bool:
        return sorted(expected.split()) == sorted(found.split())


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.specs()
    monkeypatch.setattr(registry, "_SPECS", dict(registry._SPECS))
    for name, env in (("ladder", Ladder), ("clueless", Clueless), ("jumbled", Jumbled)):
        registry.register(f"test-{name}", env)


@pytest.fixture
def ladder() -> Manifest:
    return record("test-ladder")


def with_versions(manifest: Manifest, **versions: str) -> Manifest:
    return manifest.model_copy(update={"versions": {**manifest.versions, **versions}})


def complaint(env_id: str, manifest: Manifest) -> str:
    with pytest.raises(AssertionError) as raised:
        check_manifest(env_id, manifest)
    return str(raised.value)


# -- what has changed --------------------------------------------------------------------------------------------------


def test_an_unchanged_environment_passes(ladder: Manifest) -> None:
    assert check_manifest("test-ladder", ladder) == "3 episodes of 9 turns are as recorded; same versions and data"


def test_recording_twice_gives_the_same_text(ladder: Manifest) -> None:
    assert record("test-ladder").text() == ladder.text()


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        (
            "answer",
            "you sit on rung {}",
            "turn 1: the observation has 'you sit on rung 1' instead of 'you stand",
        ),
        ("rung_is_worth", 0.5, "turn 1: the reward is 0.5 instead of 0.25"),
        ("rungs", 2, "turn 2: the episode ends, which it did not"),
        ("rungs", 4, "turn 3: the episode goes on, which it did not"),
        ("allowed", ["climb", "jump"], "turn 0: the admissible actions lack 'wait' and add 'jump'"),
        ("allowed", ["climb"], "turn 0: the admissible actions lack 'wait'"),
        ("allowed", list("abcdefg"), "lack 'climb', 'wait' and add 'a', 'b', 'c', 4 more"),
        ("allowed", ["climb", "wait", "wait"], "turn 0: the admissible actions are listed another number of times"),
        ("allowed", [str(i) for i in range(60)], "turn 0: the admissible actions are 60 with the digest"),
        ("answer", "{} {}", "turn 1: it raises IndexError"),
    ],
)
def test_the_first_change_is_named_with_task_turn_and_version(
    monkeypatch: pytest.MonkeyPatch, ladder: Manifest, attribute: str, value: Any, words: str
) -> None:
    monkeypatch.setattr(Ladder, attribute, value)
    told = complaint("test-ladder", with_versions(ladder, pydantic="1.7.0"))
    assert told.startswith("task 'ladder 0', turn ") and words in told
    assert re.search(r"; recorded with pydantic 1\.7\.0, here 2\.[\d.]+$", told)


def test_a_change_without_another_version_says_that_versions_are_the_same(
    monkeypatch: pytest.MonkeyPatch, ladder: Manifest
) -> None:
    monkeypatch.setattr(Ladder, "rung_is_worth", 1.0)
    assert complaint("test-ladder", ladder).endswith("; same versions and data")


def test_an_observation_that_says_the_same_in_another_order_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = record("test-jumbled")
    monkeypatch.setattr(Jumbled, "answer", "on rung {} you stand")
    assert "as recorded" in check_manifest("test-jumbled", manifest)


def test_admissible_actions_may_come_in_another_order(monkeypatch: pytest.MonkeyPatch, ladder: Manifest) -> None:
    monkeypatch.setattr(Ladder, "allowed", ["wait", "climb"])
    assert "as recorded" in check_manifest("test-ladder", ladder)


def test_a_task_that_is_gone_is_a_difference(ladder: Manifest) -> None:
    episodes = [ladder.recordings[0].episodes[0].model_copy(update={"task": "ladder 9"})]
    recording = ladder.recordings[0].model_copy(update={"episodes": tuple(episodes)})
    told = complaint("test-ladder", ladder.model_copy(update={"recordings": (recording,)}))
    assert told.startswith("task 'ladder 9', turn 0: it raises UnknownIdError: Unknown task 'ladder 9'")


def test_another_version_alone_passes_with_a_remark(ladder: Manifest) -> None:
    found = check_manifest("test-ladder", with_versions(ladder, pydantic="1.7.0", absent="3"))
    assert found.startswith("3 episodes of 9 turns are as recorded; recorded with absent 3, here not installed; ")
    assert "recorded with pydantic 1.7.0, here 2." in found


def test_other_data_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "games"
    folder.mkdir()
    (folder / "one").write_text("1")
    monkeypatch.setattr(Ladder, "files", {"games": folder, "first": folder / "one"})
    manifest = record("test-ladder")
    assert "same versions and data" in check_manifest("test-ladder", manifest)
    (folder / "two").write_text("2")
    found = check_manifest("test-ladder", manifest)
    assert re.search(r"as recorded; recorded with games of hash \w{12}, here \w{12}$", found)


# -- recording ---------------------------------------------------------------------------------------------------------


def test_without_an_expert_chance_plays_the_same_way_each_time() -> None:
    manifest = record("test-clueless")
    assert {episode.player for episode in manifest.recordings[0].episodes} == {"chance"}
    assert record("test-clueless") == manifest
    assert "as recorded" in check_manifest("test-clueless", manifest)


def test_a_manifest_is_renewed_with_its_tasks_and_its_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    old = record("test-ladder", tasks=["ladder 3"])
    old = record("test-ladder", {"max_turns": 2}, tasks={"ladder 1": ["wait", "climb", "climb"]}, onto=old)
    assert [turn.action for turn in old.recordings[1].episodes[0].turns] == ["", "wait", "climb"]
    monkeypatch.setattr(Ladder, "answer", "rung {}")
    new = record("test-ladder", onto=old)
    played = [(r.options, e.task, e.player, e.turns[-1].observation) for r in new.recordings for e in r.episodes]
    assert played == [({}, "ladder 3", "expert", "rung 3"), ({"max_turns": 2}, "ladder 1", "hand", "rung 1")]
    assert record("test-ladder", {"max_turns": 2}, onto=new) == new


def test_long_lists_of_actions_are_kept_as_a_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ladder, "allowed", [f"climb {number}" for number in range(1000)])
    manifest = record("test-ladder")
    assert str(manifest.recordings[0].episodes[0].admissible).startswith("1000 with the digest ")
    monkeypatch.setattr(Ladder, "allowed", [f"climb {number}" for number in range(999)])
    assert "are 999 with the digest" in complaint("test-ladder", manifest)


# -- the file ----------------------------------------------------------------------------------------------------------


def test_a_manifest_survives_its_file(tmp_path: Path, ladder: Manifest) -> None:
    path = tmp_path / "ladder.json"
    path.write_text(ladder.text())
    assert Manifest.load(path, "test-ladder") == ladder
    assert Manifest.load(path, "agent_gym/test-ladder-v0") == ladder


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[: len(text) // 2], "cannot be read as a manifest"),
        (lambda text: "", "cannot be read as a manifest"),
        (lambda text: "[1, 2]", "cannot be read as a manifest"),
        (lambda text: "[" * 100_000, "cannot be read as a manifest"),
        (lambda text: '{"name": "a web page"}', "cannot be read as a manifest (env: Field required)"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "(format: Input should be 1)"),
        (lambda text: text.replace("test-ladder", "test-jumbled"), "is of 'test-jumbled', not of 'test-ladder'"),
    ],
)
def test_a_file_that_is_none_is_told_in_a_sentence(
    tmp_path: Path, ladder: Manifest, damage: Callable[[str], str], words: str
) -> None:
    path = tmp_path / "m.json"
    path.write_text(damage(ladder.text()))
    with pytest.raises(ManifestError) as raised:
        Manifest.load(path, "test-ladder")
    told = str(raised.value)
    assert told.startswith(str(path)) and words in told and told.endswith((".", "--record."))


def test_bytes_that_are_no_text_are_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="cannot be read as a manifest"):
        Manifest.load(tmp_path / "m.json", "test-ladder")


def test_a_missing_file_is_told_with_how_to_record_one(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"There is no manifest .*none\.json: record one with --record"):
        Manifest.load(tmp_path / "none.json", "test-ladder")


def test_the_id_of_a_file_is_the_same_in_every_folder(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parents[1] / "small_envs.py", tmp_path / "mine.py")
    manifest = record(f"{tmp_path}/mine.py:WordEnv")
    assert manifest.env == "mine.py:WordEnv" and str(tmp_path) not in manifest.text()


def test_the_manifest_lies_beside_the_module(tmp_path: Path) -> None:
    assert manifest_path("alfworld") == PACKAGE / "envs" / "alfworld" / "manifest.json"
    assert manifest_path("reasoning-gym") == PACKAGE / "envs" / "reasoning_gym.manifest.json"
    shutil.copy(Path(__file__).parents[1] / "small_envs.py", tmp_path / "mine.py")
    env_id = f"{tmp_path / 'mine.py'}:WordEnv"
    assert manifest_path(env_id) == tmp_path / "mine.manifest.json"
    assert find_manifest(env_id) is None
    (tmp_path / "mine.manifest.json").write_text(record(env_id).text())
    assert find_manifest(env_id) is not None
    assert find_manifest(env_id.replace("WordEnv", "CountEnv")) is None, "it is of another class of that module"


def test_without_a_manifest_the_check_does_not_apply_and_says_how_to_record_one() -> None:
    with pytest.raises(NotApplicableError, match=r"it has no manifest; --record test_manifest\.manifest\.json makes"):
        check_manifest("test-ladder", None)
    more = {"manifest": lambda _: check_manifest("test-ladder", None)}
    (check,) = conform(Ladder, only="manifest", more=more)
    assert check.passed is None


# -- what we ship ------------------------------------------------------------------------------------------------------


def shipped(env_id: str) -> Manifest:
    manifest = find_manifest(env_id)
    assert manifest is not None
    return manifest


def lies_in_the_package(path: Path | None) -> bool:
    return path is not None and path.is_file() and path.is_relative_to(PACKAGE)


SHIPPED = [spec.id for spec in registry.specs() if lies_in_the_package(manifest_path(spec.id))]


def test_all_our_environments_ship_a_manifest() -> None:
    assert set(SHIPPED) >= {"alfworld", *NEEDED}


@pytest.mark.parametrize(
    "env_id", [pytest.param(env_id, marks=[pytest.mark.slow] * (env_id in SLOW)) for env_id in SHIPPED]
)
def test_what_we_ship_says_what_it_said_when_it_was_recorded(
    env_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in NEEDED.get(env_id, ()):
        pytest.importorskip(module)
    monkeypatch.setenv("AGENT_GYM_CACHE", str(tmp_path))
    assert "are as recorded" in check_manifest(env_id, shipped(env_id))


def test_the_manifest_of_alfworld_has_all_task_types_and_both_ways_to_put() -> None:
    import agent_gym

    manifest = shipped("alfworld")
    env = agent_gym.make("alfworld", size="tiny")
    kinds = [env.reset(options={"task": episode.task})[1]["task_type"] for episode in manifest.recordings[0].episodes]
    assert len(set(kinds)) == 6
    actions = [turn.action for turn in manifest.recordings[1].episodes[0].turns]
    assert manifest.recordings[1].options["put_alias"] and actions[-1].startswith("put ")


@pytest.mark.parametrize("env_id", SHIPPED)
def test_shipped_manifests_are_small_and_are_of_what_they_lie_beside(env_id: str) -> None:
    path = manifest_path(env_id)
    assert path is not None
    text = path.read_text()
    assert shipped(env_id).text() == text and len(text) < 40_000
    assert "/home/" not in text and "/tmp/" not in text


def test_manifests_are_in_the_wheel(tmp_path: Path) -> None:
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=PACKAGE.parent, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*manifest.json")} <= set(names)
