"""The report: one file that holds what it says, and in which nothing of an episode runs."""

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from small_runs import HOSTILE, episode, evaluation_run, make_run, training_run

from agent_gym.errors import StoreError

pytest.importorskip("starlette")

from agent_gym.viewer import export as exporting
from agent_gym.viewer.export import embeddable, export

SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
DATA = re.compile(r'<script type="application/json" id="embedded">(.*?)</script>', re.DOTALL)


def embedded(page: str) -> dict[str, Any]:
    (found,) = DATA.findall(page)
    return dict(json.loads(found))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs")
    out = folder / "report.html"
    export([training_run(folder / "trained").path], out)
    return out.read_text(encoding="utf-8")


def test_the_file_asks_for_nothing_outside_itself(page: str) -> None:
    shell = DATA.sub("", SCRIPT.sub("", re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)))
    assert "/static/" not in shell and "http:" not in shell and "https:" not in shell
    assert not re.search(r"<(link|script|img|iframe)[^>]*\b(src|href)=\"(?!data:)", shell)


def test_its_policy_allows_its_own_scripts_and_styles_by_their_hashes_and_nothing_else(page: str) -> None:
    found = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    assert found is not None
    policy = html.unescape(found[1])
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and "unsafe" not in policy and "connect-src" not in policy
    for kind, pattern in (("script-src", SCRIPT), ("style-src", re.compile(r"<style>(.*?)</style>", re.DOTALL))):
        texts = pattern.findall(page)
        hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts}
        assert texts and set(rules[kind].split()) == hashes
    # The policy stands before everything that it is about.
    assert page.index("Content-Security-Policy") < page.index("<style>") < page.index("<script")


def test_an_episode_that_holds_tags_arrives_whole_and_ends_no_element(page: str) -> None:
    answer = embedded(page)["/api/episode?id=train%2F2%2Fg1e1&run=0"]
    assert answer["turns"][0]["observation"] == HOSTILE
    assert page.count("document.title='taken'") > 0
    assert "<script>document.title" not in page and "<img src=x" not in page
    assert "\u2028" not in page and "\u2029" not in page


@pytest.mark.parametrize("text", ["</script>", "<!--<script>", "]]>", "\u2028", "&lt;", "\ud800", "\\u003c", "\x00"])
def test_any_text_can_stand_in_the_data(text: str) -> None:
    written = embeddable({text: [text]})
    assert not set(written) & set("<>&\u2028\u2029") and written.isascii()
    assert json.loads(written) == {text: [text]}


def test_what_is_no_number_becomes_null() -> None:
    assert embeddable([float("nan"), {"a": float("inf")}, 1.5]) == '[null,{"a":null},1.5]'


def test_every_entry_of_its_lists_can_be_opened(page: str) -> None:
    answers = embedded(page)
    rows = answers["/api/episodes?run=0"]["episodes"]
    assert len(rows) == 10
    shown = {answer["episode"]["id"]: answer for path, answer in answers.items() if path.startswith("/api/episode?")}
    assert set(shown) == {row["id"] for row in rows}
    assert [shown[row["id"]]["next"] for row in rows] == [*(row["id"] for row in rows[1:]), None]
    groups = {row["group_id"] for row in answers["/api/groups?run=0"]["groups"]}
    opened = {answer["group_id"] for path, answer in answers.items() if path.startswith("/api/group?")}
    assert groups == opened == {row["group_id"] for row in rows}
    for name in ("runs", "metrics?run=0", "facets?run=0", "version?run=0", "evaluation?run=0"):
        assert f"/api/{name}" in answers


def test_it_says_what_it_holds_and_not_where_the_run_lies(page: str, tmp_path: Path) -> None:
    assert '<p class="report-note" role="note">Report of ' in page
    assert "trained: 10 of 10 episodes." in page
    assert embedded(page)["/api/runs"]["runs"][0]["path"] == "trained"
    assert str(tmp_path.parent.parent) not in page


def test_few_episodes_are_of_many_kinds(tmp_path: Path) -> None:
    many = [episode(f"e{number}", task=f"t{number}", group=f"g{number}") for number in range(60)]
    many[3] = episode("won", task="t", group="g", success=True)
    many[4] = episode("failed", task="t", group="g", error="WorkerError: gone")
    run = make_run(tmp_path / "many", [(1, "train", many)])
    written = export([run.path], tmp_path / "out.html", episodes=6)
    rows = embedded(written.path.read_text())["/api/episodes?run=0"]
    assert len(rows["episodes"]) == 6 and rows["stored"] == 60
    assert {"won", "failed"} < {row["id"] for row in rows["episodes"]}
    assert "6 of 60 episodes" in written.note
    assert written.size == written.path.stat().st_size


def test_its_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = [episode(f"e{number}", group=f"g{number}", turns=20, observation="word " * 100) for number in range(20)]
    run = make_run(tmp_path / "long", [(1, "train", long)])
    monkeypatch.setattr(exporting, "BYTES", 200_000)
    written = export([run.path], tmp_path / "out.html")
    data = DATA.findall(written.path.read_text())[0]
    assert 150_000 < len(data) < 300_000
    kept = len(embedded(written.path.read_text())["/api/episodes?run=0"]["episodes"])
    assert 0 < kept < 20 and f"{kept} of 20 episodes, {kept} of them, which are long, as text" in written.note


def test_two_runs_bring_their_comparison(tmp_path: Path) -> None:
    for name, won in (("a", [0]), ("b", [0, 1])):
        evaluation_run(tmp_path / name, won)
    export([tmp_path], tmp_path / "out.html", episodes=8)
    answers = embedded((tmp_path / "out.html").read_text())
    assert answers["/api/comparison?run=0&with=1"]["difference"] == pytest.approx(1 / 6)
    assert answers["/api/comparison?run=1&with=0"]["difference"] == pytest.approx(-1 / 6)
    assert len(answers["/api/episodes?run=0"]["episodes"]) == len(answers["/api/episodes?run=1"]["episodes"]) == 4


def test_paths_of_this_machine_are_their_last_part(tmp_path: Path) -> None:
    config = {
        "suites": ["/home/me/my suites/kitchen.yaml", "math/aime24"],
        "env": {"id": "/home/me/env.py:Env", "options": {"path": "/data/secret/questions.jsonl"}},
        "model": "scripted:/home/me/play.py:name",
        "server": {"other": "http://localhost:8000/v1/deep/er", "near": "../a/b", "system_prompt": "Ask /a/b or c."},
    }
    said = episode("e", action="cat /home/them/notes", metadata={"model": "/home/me/runs/demo", "own": "/a/b"})
    run = make_run(tmp_path / "run", [(0, "eval", [said])], config=config)
    answers = embedded(export([run.path], tmp_path / "out.html").path.read_text())
    about = answers["/api/runs"]["runs"][0]
    assert about["model"] == "scripted:play.py:name" and about["env"] == "env.py:Env"
    assert about["config"]["suites"] == ["kitchen.yaml", "math/aime24"]
    assert (
        about["config"]["env"]["options"] == {"path": "questions.jsonl"}
        and about["config"]["server"] == config["server"]
    )
    shown = answers["/api/episode?id=e&run=0"]
    assert shown["metadata"] == {"model": "demo", "own": "/a/b"}
    assert shown["turns"][0]["action"] == "cat /home/them/notes 0"
    assert "/home/me" not in json.dumps(answers) and str(tmp_path) not in json.dumps(answers)


@pytest.mark.parametrize(("asked", "held"), [(0, [0, 0, 0]), (2, [1, 1, 0]), (7, [3, 2, 2]), (-1, [0, 0, 0])])
def test_it_holds_as_many_episodes_as_were_asked_for(asked: int, held: list[int], tmp_path: Path) -> None:
    for name in "abc":
        evaluation_run(tmp_path / name, [0])
    answers = embedded(export([tmp_path], tmp_path / "out.html", episodes=asked).path.read_text())
    assert [len(answers[f"/api/episodes?run={run}"]["episodes"]) for run in range(3)] == held
    opened = [path for path in answers if path.startswith("/api/episode?")]
    assert len(opened) == sum(held)


def test_a_run_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    broken = make_run(tmp_path / "runs" / "broken")
    (broken.path / "trajectories.sqlite").write_bytes(b"garbage " * 200)
    with pytest.raises(StoreError, match="cannot be read"):
        export([broken.path], tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()
    evaluation_run(tmp_path / "runs" / "good", [0])
    written = export([tmp_path / "runs"], tmp_path / "out.html", episodes=4)
    assert "good: 4 of" in written.note and "broken cannot be read: " in written.note
    assert "broken: 0 of" not in written.note and str(tmp_path) not in written.path.read_text()


def test_a_run_without_episodes_becomes_a_report_too(tmp_path: Path) -> None:
    run = make_run(tmp_path / "new")
    assert "new: 0 of 0 episodes." in export([run.path], tmp_path / "out.html").note


def test_an_old_report_stays_where_a_new_one_cannot_be_written(tmp_path: Path) -> None:
    run = make_run(tmp_path / "new")
    with pytest.raises(StoreError, match="cannot be written"):
        export([run.path], tmp_path / "nowhere" / "out.html")
    out = tmp_path / "out.html"
    out.write_text("old")
    (run.path / "config.yaml").unlink()
    with pytest.raises(Exception, match="no run"):
        export([run.path], out)
    assert out.read_text() == "old" and sorted(path.name for path in tmp_path.glob("out*")) == ["out.html"]
