"""Suites are data: those that come along hold together, and one's own is ten lines of YAML."""

from pathlib import Path
from typing import Any

import pytest
from evaluation import guessing

from agent_gym.config import EvalConfig
from agent_gym.config_files import build
from agent_gym.errors import ConfigError, DataError, UnknownIdError
from agent_gym.evaluation import suites as module
from agent_gym.evaluation.plans import digest, make_plans
from agent_gym.evaluation.runner import evaluate
from agent_gym.evaluation.suites import find_suite, read_suites, register_suites, suites
from agent_gym.registry import find_spec

OWN = f"""
name: guesses
description: guessing at a table
env: {{id: "{guessing.__file__}:Guess"}}
split: test
tasks: 10
attempts: 2
rollout: {{max_tokens: 16, system_prompt: Say a letter.}}
references: [{{model: nobody, value: 50, source: a coin}}]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENT_GYM_CACHE", str(tmp_path / "cache"))
    return tmp_path


def written(folder: Path, text: str = OWN, name: str = "own.yaml") -> str:
    (folder / name).write_text(text)
    return name


def planned(name: str, **changes: Any) -> Any:
    (plan,) = make_plans(build(EvalConfig, {"suites": [name], **changes}))
    return plan


class TestPackaged:
    def test_there_are_those_of_the_papers(self) -> None:
        families = {name.partition("/")[0] for name in suites()}
        assert families >= {"alfworld", "scienceworld", "textworld", "webshop", "qa", "web", "math", "code"}
        assert len(suites()) > 60 and all(name == suite.name for name, suite in suites().items())

    def test_each_names_what_there_is(self) -> None:
        for suite in suites().values():
            find_spec(suite.env.id)
            assert suite.description and suite.split, suite.name
            assert not suite.needs.files or suite.needs.command or suite.needs.url, suite.name
            assert all(reference.source for reference in suite.references), suite.name

    @pytest.mark.parametrize(
        ("name", "count"),
        [
            ("alfworld/generated_tiny", 200),
            ("scienceworld/test", 1819),
            ("scienceworld/iid", 1661),
            ("scienceworld/ood", 1684),
            ("scienceworld/use-thermometer", 135),
            ("math/generated", 200),
            ("qa/generated", 200),
        ],
    )
    def test_what_is_generated_or_comes_along_is_at_hand(self, name: str, count: int) -> None:
        if lacking := find_suite(name).lacking():
            pytest.skip(lacking)
        assert len(planned(name).task_ids) == count

    def test_epos_tasks_out_of_distribution_are_the_test_variations_without_the_thermometer(self) -> None:
        plan = planned("scienceworld/ood")
        assert "boil/21" in plan.task_ids and "boil/20" not in plan.task_ids
        assert not any(id.startswith("use-thermometer") for id in plan.task_ids)

    def test_data_that_is_missing_is_named_with_the_command_that_gets_it(self) -> None:
        with pytest.raises(DataError, match="run agent-gym data get alfworld"):
            planned("alfworld/valid_unseen")
        with pytest.raises(DataError, match=r"data get web/gaia --from FILE.*ask for access at huggingface.co"):
            planned("web/gaia")

    def test_an_unknown_name_is_answered_with_the_nearest(self) -> None:
        with pytest.raises(UnknownIdError, match="did you mean 'alfworld/valid_unseen'"):
            find_suite("alfworld/unseen")


class TestOwn:
    def test_ten_lines_are_played(self, folder: Path) -> None:
        result = evaluate(written(folder), "run", model="random")
        assert result.score.episodes == 20 and result.suites[0].plan.name == "guesses"

    def test_what_is_said_on_top_of_it_wins(self, folder: Path) -> None:
        plan = planned(written(folder), tasks=3, attempts=4, rollout={"max_tokens": 8}, temperature=0.5)
        assert len(plan.task_ids) == 3 and plan.attempts == 4 and plan.count == 12
        rollout = plan.suite.rollout
        assert (rollout.max_tokens, rollout.system_prompt, plan.suite.temperature) == (8, "Say a letter.", 0.5)
        assert plan.record()["changed"] == ["max_tokens=8", "temperature=0.5", "tasks=3 of 10"]

    def test_what_a_suite_says_itself_and_more_attempts_are_no_change(self, folder: Path) -> None:
        rollout = {"system_prompt": "Say a letter.", "concurrency": 2}
        plan = planned(written(folder), tasks=10, attempts=4, rollout=rollout, temperature=1.0)
        assert plan.record()["changed"] == []

    def test_an_environment_beside_a_suite_is_refused(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match="leave out --env"):
            planned(written(folder), env={"id": "alfworld"})

    def test_tasks_are_chosen_by_id_by_place_and_by_type(self, folder: Path) -> None:
        base = OWN.replace("tasks: 10\n", "")
        ids = planned(written(folder, base + "tasks: [test 7, test 2]"), seed=1).task_ids
        assert ids == ("test 7", "test 2")
        assert planned(written(folder, base + "stretch: [3, 5]")).task_ids == ("test 3", "test 4")
        odd = planned(written(folder, base + "types: [odd]\nstretch: [0, 6]")).task_ids
        assert odd == ("test 1", "test 3", "test 5")

    def test_a_family_shares_what_is_said_at_its_top(self, folder: Path) -> None:
        text = f"""
name: table
env: {{id: "{guessing.__file__}:Guess", options: {{max_turns: 9}}}}
suites:
  short: {{split: test, env: {{options: {{max_turns: 2}}}}}}
  long: {{split: train, attempts: 3}}
"""
        found = read_suites(Path(written(folder, text)))
        assert found["table/short"].env.options == {"max_turns": 2} and found["table/long"].attempts == 3
        assert found["table/long"].env.options == {"max_turns": 9}
        with pytest.raises(ConfigError, match="has 2 suites"):
            find_suite("own.yaml")
        assert find_suite("own.yaml:table/long").split == "train"

    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            ("tasks: 10", "tasks: 0", "'tasks' is 0: there must be one task at least"),
            ("tasks: 10", "tasks: []", "there must be one task at least"),
            ("tasks: 10", "tasks: [a, b, a]", "'a' stands there more than once; `attempts` says how often"),
            ("tasks: 10", "types: [hardest]", "has no task of the types hardest: it has "),
            ("max_tokens: 16", "temperature: 0.3", "temperature has no effect here: say temperature"),
            ("max_tokens: 16", "tasks: 3", "tasks has no effect here: say tasks"),
            ("max_tokens: 16", "max_lag: 2", "max_lag has no effect here: nothing is trained"),
        ],
    )
    def test_what_would_play_nothing_or_something_else_is_refused(
        self, folder: Path, old: str, new: str, said: str
    ) -> None:
        name = written(folder, OWN.replace(old, new))
        with pytest.raises(ConfigError, match=said):
            make_plans(EvalConfig(suites=[name], model="random"))

    def test_a_key_that_does_not_exist_is_refused_with_the_nearest(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match=r"'guesses'.*Unknown configuration key 'metrics': did you mean 'metric'"):
            find_suite(written(folder, OWN + "metrics: success"))

    def test_a_plugin_makes_suites_known_by_name(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_REGISTERED", [])
        register_suites(folder / written(folder))
        assert find_suite("guesses").tasks == 10 and "guesses" in suites()


class TestPins:
    def test_tasks_that_are_what_they_were_pass(self, folder: Path) -> None:
        ids = [f"test {n}" for n in range(0, 30, 3)]
        made = digest(ids, [f"guess {id}" for id in ids])
        pins = f"count: {made.count}\nids: {made.ids}\ncontents: {made.contents}\n"
        plan = planned(written(folder, OWN + pins), tasks=2)
        assert plan.task_ids == ("test 0", "test 15")

    def test_a_change_is_named(self, folder: Path) -> None:
        for pin, what in (
            ("count: 3", "number 10 instead of 3"),
            ("ids: abc", "ids have"),
            ("contents: abc", "contents"),
        ):
            with pytest.raises(DataError, match=what):
                planned(written(folder, f"{OWN}{pin}\n"))

    def test_what_a_task_says_counts_not_only_its_id(self, folder: Path) -> None:
        before = planned(written(folder)).task_digests
        (folder / "changed.txt").write_text("!")
        after = planned("own.yaml").task_digests
        assert [one == other for one, other in zip(before, after, strict=True)].count(False) == 1

    def test_where_a_task_cannot_tell_what_it_says_its_id_is_all(self) -> None:
        assert digest(["a"], [""]).contents is None and digest([], []).contents is None
        assert digest(["a", "b"], ["x", "y"]) != digest(["a", "b"], ["x", "z"])


def test_several_suites_in_one_run_share_the_model_and_the_folder(folder: Path) -> None:
    other = written(folder, OWN.replace("guesses", "others").replace("tasks: 10", "tasks: 4"), "other.yaml")
    config = build(EvalConfig, {"suites": [written(folder), other], "model": "random"})
    result = evaluate(config, "run")
    assert [each.score.episodes for each in result.suites] == [20, 8] and result.score.episodes == 28
    assert all(each.complete for each in result.suites)
    with pytest.raises(ConfigError, match="not all different"):
        make_plans(build(EvalConfig, {"suites": ["own.yaml", "own.yaml"]}))
