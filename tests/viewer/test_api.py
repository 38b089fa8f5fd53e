"""The API over small run folders, asked as the page asks it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import HOSTILE, episode, evaluation_run, make_run, train_config, training_run

from agent_gym.store.run import RunFolder

pytest.importorskip("starlette")

from starlette.testclient import TestClient

from agent_gym.viewer import queries
from agent_gym.viewer.runs import Runs
from agent_gym.viewer.server import make_app


class Page:
    """Asks the server."""

    def __init__(self, *runs: Path) -> None:
        self._client = TestClient(make_app(list(runs)), base_url="http://localhost:8777")

    def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        response = self._client.get(f"/api/{path}", params=parameters)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def error(self, path: str, **parameters: Any) -> tuple[int, str]:
        response = self._client.get(f"/api/{path}", params=parameters)
        return response.status_code, response.json()["error"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return training_run(tmp_path_factory.mktemp("runs") / "trained")


@pytest.fixture(scope="module")
def page(trained: RunFolder) -> Iterator[Page]:
    yield Page(trained.path)


def ids(answer: dict[str, Any]) -> list[str]:
    return [row["id"] for row in answer["episodes"]]


# -- runs --------------------------------------------------------------------------------------------------------------


def test_runs_say_what_they_are(page: Page) -> None:
    (run,) = page.get("runs")["runs"]
    assert (run["kind"], run["algorithm"], run["env"], run["model"]) == ("train", "grpo", "doors", "tiny")
    assert (run["step"], run["total_steps"], run["episodes"], run["live"]) == (2, 10, 10, True)


def test_secrets_of_a_configuration_are_not_shown(tmp_path: Path) -> None:
    section = {"api_key": "sk-1234", "max_tokens": 64, "headers": [{"Authorization": "sk-1234"}]}
    make_run(tmp_path / "a", config=train_config() | {"engine": section})
    (run,) = Page(tmp_path / "a").get("runs")["runs"]
    assert "sk-1234" not in json.dumps(run)
    assert run["config"]["engine"]["max_tokens"] == 64


def test_a_run_that_is_made_in_a_folder_of_runs_is_found_and_the_others_keep_their_index(tmp_path: Path) -> None:
    make_run(tmp_path / "m")
    page = Page(tmp_path)
    make_run(tmp_path / "a")
    assert [run["name"] for run in page.get("runs")["runs"]] == ["m", "a"]
    assert page.error("facets", run=7) == (404, "There is no run 7: the viewer shows runs 0 to 1.")


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_a_place_without_a_run_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Exception, match=f"{place}"):
        Runs([tmp_path / place])


def test_a_run_that_has_just_begun_shows_nothing_and_says_so(tmp_path: Path) -> None:
    make_run(tmp_path / "new")
    page = Page(tmp_path / "new")
    assert page.get("runs")["runs"][0]["episodes"] == 0
    assert page.get("metrics")["records"] == []
    assert page.get("facets")["phases"] == []
    for name in ("episodes", "groups"):
        assert page.get(name) == {
            name: [],
            "next": None,
            "total": 0,
            "total_is_exact": True,
            "note": "No episode has been stored yet.",
        }
    assert page.get("evaluation") == {"suites": [], "note": "Nothing has been measured yet."}
    assert page.error("episode", id="x")[0] == 404


@pytest.mark.parametrize("content", ["", "config:\n", "created: x\nconfig: {", "[]"])
def test_a_half_written_run_is_a_sentence(tmp_path: Path, content: str) -> None:
    make_run(tmp_path / "half")
    page = Page(tmp_path / "half")
    (tmp_path / "half" / "config.yaml").write_text(content)
    assert "config.yaml" in page.get("runs")["runs"][0]["error"]
    status, sentence = page.error("evaluation")
    assert status == 503 and "config.yaml" in sentence


def test_a_run_that_is_deleted_while_it_is_shown_is_a_sentence(tmp_path: Path) -> None:
    import shutil

    run = training_run(tmp_path / "gone")
    page = Page(run.path)
    assert page.get("episodes")["total"] == 10
    shutil.rmtree(run.path)
    assert "There is no run in" in page.get("runs")["runs"][0]["error"]
    for name, parameters in (("episodes", {}), ("metrics", {}), ("group", {"id": "g0"}), ("evaluation", {})):
        status, sentence = page.error(name, **parameters)
        assert status == 503 and "There is no run in" in sentence
    assert page.get("version")["live"] is False


def test_a_database_that_is_none_is_a_sentence(tmp_path: Path) -> None:
    run = make_run(tmp_path / "broken")
    (run.path / "trajectories.sqlite").write_text("this is no database, but it is long enough to be read as one " * 20)
    status, sentence = Page(run.path).error("episodes")
    assert status == 503 and "cannot be read" in sentence


# -- live --------------------------------------------------------------------------------------------------------------


def test_the_version_changes_when_episodes_or_metrics_are_written_and_not_by_looking(tmp_path: Path) -> None:
    run = training_run(tmp_path / "live")
    page = Page(run.path)
    first = page.get("version")["version"]
    page.get("episodes")
    page.get("evaluation")
    assert page.get("version")["version"] == first
    with run.trajectories() as store:
        store.add([episode("new")], step=3, phase="train")
        second = page.get("version")["version"]
        assert second != first
        assert page.get("episodes")["total"] == 11
    third = page.get("version")["version"]
    run.log({"phase": "train", "step": 3})
    assert page.get("version")["version"] not in (first, second, third)


# -- lists -------------------------------------------------------------------------------------------------------------


def test_episodes_come_newest_first_in_pages_that_neither_repeat_nor_lose_one(page: Page) -> None:
    seen, after = [], ""
    while after is not None:
        answer = page.get("episodes", limit=3, after=after)
        assert answer["total"] == 10 and answer["total_is_exact"]
        seen += ids(answer)
        after = answer["next"]
    assert seen == ids(page.get("episodes"))
    assert len(set(seen)) == 10 and seen[0] == "train/2/g0e2"


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"success": 1}, {"train/1/g0e0", "train/2/g0e0"}),
        ({"failed": 1, "step": 2}, {"train/2/g1e0"}),
        ({"min_turns": 3}, {"train/1/g0e1", "train/2/g0e1"}),
        ({"min_reward": 0.5, "step": 1}, {"train/1/g0e0"}),
        ({"q": "door fell", "step": 1}, {"train/1/g1e0"}),
        ({"task": "t1", "failed": 0, "step": 1}, {"train/1/g1e1"}),
        ({"group": "train/2/g1"}, {"train/2/g1e0", "train/2/g1e1"}),
        ({"phase": "after"}, set()),
    ],
)
def test_episodes_are_filtered(page: Page, parameters: dict[str, Any], expected: set[str]) -> None:
    answer = page.get("episodes", **parameters)
    assert set(ids(answer)) == expected
    assert answer["total"] == len(expected)


def test_a_seed_of_64_bits_reaches_the_browser_whole(page: Page) -> None:
    assert page.get("episodes")["episodes"][0]["seed"] == str(2**62 + 1)


@pytest.mark.parametrize(
    ("path", "parameters", "sentence"),
    [
        ("episodes", {"success": "yes"}, "is 0 or 1"),
        ("episodes", {"limit": 0}, "lies between 1 and 500"),
        ("episodes", {"limit": "1e9"}, "whole number"),
        ("episodes", {"order": "id; DROP TABLE episodes"}, "is one of newest"),
        ("episodes", {"min_reward": "nan"}, "is a number"),
        ("episodes", {"colour": "red"}, "There is no parameter 'colour'"),
        ("episode", {}, "'id' is missing"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(
    page: Page, path: str, parameters: dict[str, Any], sentence: str
) -> None:
    status, said = page.error(path, **parameters)
    assert status == 400 and sentence in said


def test_a_cursor_of_another_order_is_a_sentence(page: Page) -> None:
    status, said = page.error("episodes", order="reward", after="7")
    assert status == 503 and "no end of a page" in said


def test_facets_are_what_filters_can_choose_from(page: Page, tmp_path: Path) -> None:
    assert page.get("facets") == {"phases": ["train"], "suites": [], "types": [], "steps": {"min": 1, "max": 2}}
    evaluated = Page(evaluation_run(tmp_path / "e", [0]).path).get("facets")
    assert (evaluated["suites"], evaluated["types"]) == (["doors/dev"], ["even", "odd"])


def test_groups_sum_up_without_failed_episodes(page: Page) -> None:
    answer = page.get("groups", step=2)
    found = {row["group_id"]: row for row in answer["groups"]}
    assert answer["total"] == 2
    won = found["train/2/g0"]
    assert (won["count"], won["successes"], won["failed"], won["spread"]) == (3, 1, 0, 1.0)
    assert found["train/2/g1"]["failed"] == 1
    assert [row["group_id"] for row in page.get("groups", failed=1, limit=1)["groups"]] == ["train/2/g1"]


def test_groups_are_found_by_what_they_teach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def group(name: str, *won: bool | None) -> list[Any]:
        played = [{"success": bool(one), "error": "gone" if one is None else None} for one in won]
        return [episode(f"{name}/{place}", group=name, **how) for place, how in enumerate(played)]  # type: ignore[arg-type]

    kinds = {"mixed": (True, False), "won": (True, True), "lost": (False, False), "half": (None, True), "gone": (None,)}
    run = make_run(tmp_path / "run", [(1, "train", [row for name, won in kinds.items() for row in group(name, *won)])])
    page = Page(run.path)

    def found(**asked: object) -> list[str]:
        return sorted(row["group_id"] for row in page.get("groups", **asked)["groups"])

    assert found(rewards="differ") == ["mixed"]
    assert found(rewards="equal") == ["gone", "half", "lost", "won"]
    assert found(rewards="won") == ["won"] and found(rewards="lost") == ["gone", "lost"]
    assert found(rewards="lost", failed=1) == ["gone"]
    assert "'rewards' is one of any, differ" in page.error("groups", rewards="odd")[1]
    first = page.get("groups", rewards="equal", limit=3)
    rest = page.get("groups", rewards="equal", limit=3, after=first["next"])
    assert len(first["groups"]) == 3 and [row["group_id"] for row in rest["groups"]] == ["won"]
    assert rest["next"] is None
    # What is looked through at once is bounded, and told.
    monkeypatch.setattr(queries, "SECONDS", 600)
    monkeypatch.setattr(queries, "SEARCHED", 2)
    monkeypatch.setattr(queries, "_AT_ONCE", 1)
    answer = page.get("groups", rewards="differ")
    assert (answer["groups"], answer["searched"]) == ([], 2)
    while answer["next"] and not answer["groups"]:
        answer = page.get("groups", rewards="differ", after=answer["next"])
    assert [row["group_id"] for row in answer["groups"]] == ["mixed"]


# -- one of them -------------------------------------------------------------------------------------------------------


def test_a_group_tells_where_branches_left_and_why(page: Page) -> None:
    answer = page.get("group", id="train/1/g0")
    members = {row["id"]: row for row in answer["episodes"]}
    assert members["train/1/g0e0"]["branch"] is None
    branch = members["train/1/g0e2"]["branch"]
    assert (branch["parent_id"], branch["turn"], branch["probability"], branch["entropy"]) == (
        "train/1/g0e0",
        1,
        0.5,
        1.25,
    )
    assert branch["initial_entropy"] is None
    assert [turn["action"] for turn in members["train/1/g0e1"]["turn_list"]] == ["open it 0", "open it 1", "open it 2"]
    assert page.error("group", id="nope")[0] == 404


def test_every_token_of_an_episode_stands_in_the_answer_once_with_its_mask_and_values(
    page: Page, trained: RunFolder
) -> None:
    answer = page.get("episode", id="train/1/g0e1")
    with trained.trajectories() as store:
        stored = store.get("train/1/g0e1")
    parts = [*answer["prompt"], *answer["turns"], *answer["rest"]]
    tokens = [token for part in parts for token in part["tokens"]]
    assert [token["o"] for token in tokens] == list(range(len(stored.token_ids)))
    assert [token["i"] for token in tokens] == stored.token_ids
    assert [token["m"] for token in tokens] == stored.action_mask
    values = [value for part in parts for value in part["values"]["entropy"]]
    expected = [round(e, 6) if m else None for e, m in zip(stored.entropies, stored.action_mask, strict=True)]
    assert values == pytest.approx(expected, abs=1e-5)
    assert answer["turns"][1]["text"] == "open it 1"
    shown = "".join(token["t"] for token in answer["turns"][1]["tokens"])
    assert shown == "you see a door⟨end⟩open it 1⟨end⟩"


def test_signals_of_training_are_shown_for_each_token_and_each_turn(tmp_path: Path) -> None:
    run = training_run(tmp_path / "signals")
    with run.trajectories() as store:
        stored = store.get("train/1/g0e0")
        store.add_signals(1, {stored.id: {"advantage": [0.25 * mark for mark in stored.action_mask]}})
    page = Page(run.path)
    answer = page.get("episode", id=stored.id)
    assert answer["signals"] == ["entropy", "log-probability", "advantage"]
    turn = answer["turns"][0]
    assert turn["advantage"] == turn["means"]["advantage"] == 0.25 and turn["weight"] is None
    assert {value for token, value in zip(turn["tokens"], turn["values"]["advantage"], strict=True) if token["m"]} == {
        0.25
    }
    members = page.get("group", id=stored.group_id)["episodes"]
    assert [row["turn_list"][0]["advantage"] for row in members] == [0.25, None, None]


def test_neighbours_are_those_of_the_list_that_the_episode_was_opened_from(page: Page) -> None:
    answer = page.get("episode", id="train/2/g0e0")
    assert (answer["previous"], answer["next"]) == ("train/2/g0e1", "train/1/g0e2")
    answer = page.get("episode", id="train/2/g0e0", success=1)
    assert (answer["previous"], answer["next"]) == (None, "train/1/g0e0")
    assert page.get("episode", id="train/1/g0e0")["branches"][0]["id"] == "train/1/g0e2"


def test_a_long_episode_comes_in_parts_that_say_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "long", [(1, "train", [episode("long", turns=30, observation="x" * 1000)])])
    page = Page(run.path)
    seen, following = [], 0
    while following is not None:
        answer = page.get("episode", id="long", from_turn=following, max_tokens=5000)
        assert sum(len(part["tokens"]) for part in [*answer["prompt"], *answer["turns"]]) <= 5000
        seen += [turn["index"] for turn in answer["turns"]]
        following = answer["next_turn"]
        assert following is None or answer["cut"].startswith(f"Shown are turns {answer['turns'][0]['index'] + 1} to ")
        assert bool(answer["outline"]) == (answer["turns"][0]["index"] == 0), "it is of all turns, and told once"
    assert seen == list(range(30))
    outline = page.get("episode", id="long", max_tokens=1)["outline"]
    assert len(outline["means"]["entropy"]) == len(outline["rewards"]) == 30 and outline["invalid"] == []
    text = page.get("episode", id="long", tokens=0)
    assert len(text["turns"]) == 30 and "tokens" not in text["turns"][0]
    one = page.get("episode", id="long", from_turn=3, max_tokens=100)
    assert [turn["index"] for turn in one["turns"]] == [3] and one["turns"][0]["tokens_left_out"] > 0
    assert one["turns"][0]["tokens"][-1]["m"] == 1
    # A prompt that is longer than everything that is drawn leaves room for the answer to it.
    answered = page.get("episode", id="long", max_tokens=500, limit=1)
    assert sum(token["m"] for token in answered["turns"][0]["tokens"]) == len("open it 0") + 1
    assert answered["prompt"][0]["tokens_left_out"] > 0


def test_what_an_episode_holds_arrives_as_it_is(page: Page) -> None:
    answer = page.get("episode", id="train/1/g1e1")
    assert answer["turns"][0]["observation"] == HOSTILE
    assert "".join(token["t"] for token in answer["prompt"][0]["tokens"]) == f"{HOSTILE}⟨end⟩"


def test_an_id_is_never_a_path_or_sql(page: Page) -> None:
    for id in ("../../etc/passwd", "' OR 1=1 --", "%", "train/1/g0e0\x00"):
        assert page.error("episode", id=id)[0] == 404
        assert page.error("group", id=id)[0] == 404


# -- evaluations -------------------------------------------------------------------------------------------------------


def test_an_evaluation_is_summed_up_by_suite_and_type(tmp_path: Path) -> None:
    page = Page(evaluation_run(tmp_path / "e", [0, 2, 3]).path)
    (suite,) = page.get("evaluation")["suites"]
    assert suite["suite"] == "doors/dev"
    assert (suite["overall"]["n"], suite["overall"]["rate"]) == (12, 0.5)
    assert {row["type"]: row["rate"] for row in suite["by_type"]} == pytest.approx({"even": 2 / 3, "odd": 1 / 3})
    assert page.get("evaluation", phase="before")["suites"] == []


def test_a_comparison_links_the_tasks_that_differ_to_their_episodes(tmp_path: Path) -> None:
    page = Page(evaluation_run(tmp_path / "a", [0, 1]).path, evaluation_run(tmp_path / "b", [1, 2, 3]).path)
    answer = page.get("comparison", run=0, **{"with": 1}, limit=2)
    assert (answer["pairs"], answer["suites"], answer["differing_count"], answer["next"]) == (6, ["doors/dev"], 3, 2)
    assert answer["difference"] == pytest.approx(1 / 6)
    assert (answer["a"]["run"], answer["b"]["run"]) == ("a", "b")
    rest = page.get("comparison", run=0, **{"with": 1}, after=2)
    tasks = {task["task_id"]: task for task in [*answer["differing"], *rest["differing"]]}
    assert set(tasks) == {"t0", "t2", "t3"} and rest["next"] is None
    assert tasks["t0"] == {
        "task_id": "t0",
        "task_type": "even",
        "goal": "the goal of t0",
        "a": ["eval/0/0", "eval/0/1"],
        "b": ["eval/0/0", "eval/0/1"],
        "a_success": 1.0,
        "b_success": 0.0,
    }
    assert page.error("comparison", run=0, **{"with": 1}, suite="other")[0] == 404


def test_of_very_many_measurements_the_first_and_the_last_are_summed_up(tmp_path: Path) -> None:
    batches = [(step, "during", [episode(f"during/{step}/0", group=f"during/{step}")]) for step in range(1, 31)]
    records = [{"phase": "during", "step": step} for step in range(1, 31)]
    answer = Page(make_run(tmp_path / "many", batches, records).path).get("evaluation")
    assert [suite["step"] for suite in answer["suites"]] == [1, *range(12, 31)]
    assert answer["cut"] == "Of 30 measurements the first and the last 19 are shown."
