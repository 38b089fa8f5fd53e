"""`agent-gym doctor` tries things, and breaks on none of them."""

import importlib.util
import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agent_gym.cli import doctoring
from agent_gym.cli.app import app
from agent_gym.sandbox import GUARANTEES, Probe
from agent_gym.sandbox import probe as real_probe

Tried = list[tuple[str, dict[str, Any]]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGENT_GYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AGENT_GYM_IMAGE", raising=False)
    return tmp_path / "cache"


def looked(
    monkeypatch: pytest.MonkeyPatch, *arguments: str, works: bool = True
) -> tuple[Result, dict[str, dict[str, Any]], Tried]:
    tried: Tried = []

    def probe(backend: str, **options: Any) -> Probe:
        tried.append((backend, options))
        kept = {name: works and name != "sessions fork" for name in GUARANTEES}
        return Probe(backend, works, f"no {backend}: install it", kept)

    monkeypatch.setattr(doctoring, "probe", probe)
    result = CliRunner().invoke(app, ["doctor", "--json", *arguments])
    return result, {row["what"]: row for row in json.loads(result.stdout)}, tried


def test_every_row_says_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    result, rows, tried = looked(monkeypatch)
    assert result.exit_code == 0 and tried == [("bubblewrap", {})]
    assert rows["sandbox bubblewrap"]["works"] is True
    assert rows["sandbox bubblewrap"]["detail"].startswith("host files are out of reach, no network")
    assert rows["sandbox bubblewrap"]["detail"].endswith("; not: sessions fork")
    assert rows["sandbox docker"]["works"] is None and "--image" in rows["sandbox docker"]["detail"]
    assert rows["sandbox local"]["works"] is None and "isolates nothing" in rows["sandbox local"]["detail"]
    assert rows["torch"]["works"] and rows["python"]["works"]
    assert {"GPU", "java", "cores", "memory", "disk here", "control groups", "extra search"} <= rows.keys()


def test_docker_is_tried_with_the_image_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_GYM_IMAGE", "theirs:1")
    assert ("docker", {"image": "theirs:1"}) in looked(monkeypatch)[2]
    assert ("docker", {"image": "mine:2"}) in looked(monkeypatch, "--image", "mine:2")[2]


def test_the_sandbox_is_tried_for_real() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    (row,) = [row for row in json.loads(result.stdout) if row["what"] == "sandbox bubblewrap"]
    found = real_probe("bubblewrap")
    assert row["works"] is found.works and result.exit_code == (0 if found.works else 1)
    assert all(name in row["detail"] for name in found.guarantees)


def test_the_table_has_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    _, rows, _ = looked(monkeypatch)
    table = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "200"})
    assert table.exit_code == 0
    first = [line.split("│")[1].strip() for line in table.stdout.splitlines() if line.startswith("│")]
    assert [what for what in first if what] == [*rows]


def test_without_isolation_it_fails_with_the_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    result, rows, tried = looked(monkeypatch, "--image", "some-image", works=False)
    assert result.exit_code == 1 and tried == [("bubblewrap", {}), ("docker", {"image": "some-image"})]
    assert rows["sandbox docker"]["works"] is False
    assert result.stderr.splitlines() == [
        "Untrusted code cannot be run here.",
        "sandbox bubblewrap: no bubblewrap: install it",
        "sandbox docker: no docker: install it",
    ]


@pytest.mark.parametrize(
    ("broken", "row"),
    [
        ("_gpu", "GPU"),
        ("_java", "java"),
        ("find_hierarchy", "control groups"),
        ("cache_folder", "data sets"),
        ("_memory", "memory"),
        ("_extra", "extra math"),
    ],
)
def test_what_cannot_be_looked_at_is_a_row(broken: str, row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("driver mismatch")

    monkeypatch.setattr(doctoring, broken, fail)
    result, rows, _ = looked(monkeypatch)
    assert result.exit_code == 0
    assert (rows[row]["works"], rows[row]["detail"]) == (False, "RuntimeError: driver mismatch")


def test_a_sandbox_that_crashes_the_probe_is_none() -> None:
    def probe(backend: str, **_: object) -> Probe:
        raise OSError("too many open files")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctoring, "probe", probe)
        result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1 and "sandbox bubblewrap: OSError: too many open files" in result.stderr


def test_data_that_is_kept_is_listed_with_its_size(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "none in" in looked(monkeypatch)[1]["data sets"]["detail"]
    (cache / "games" / "train").mkdir(parents=True)
    (cache / "games" / "train" / "some.json").write_bytes(b"x" * 1_500_000)
    (cache / "file.jsonl").write_bytes(b"x" * 300_000)
    rows = looked(monkeypatch)[1]
    assert rows["data games"]["detail"] == f"1.5 MB in {cache / 'games'}"
    assert rows["data file.jsonl"]["detail"] == f"0.3 MB in {cache / 'file.jsonl'}"


def test_what_is_missing_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    _, rows, _ = looked(monkeypatch)
    assert rows["extra math"] == {"what": "extra math", "works": None, "detail": "pip install 'agent-gym[math]'"}
    assert rows["java"]["works"] is None and "agent-gym[scienceworld]" in rows["java"]["detail"]


def test_every_extra_that_the_package_uses_is_looked_at() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    groups = {"environments", "tools", "dev", "docs"}
    assert set(doctoring._EXTRAS) == set(project["optional-dependencies"]) - groups
