import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from agent_gym.envs.scienceworld import TASKS, ScienceWorldEnv
from agent_gym.envs.scienceworld.tasks import SPLITS, check_simplification, find_names, list_tasks, split_range
from agent_gym.errors import ConfigError, UnknownIdError


def test_there_are_thirty_tasks_in_7207_variations() -> None:
    assert len(TASKS) == 30
    assert sum(TASKS.values()) == 7207


def test_the_splits_have_the_sizes_of_the_paper() -> None:
    assert {split: len(list_tasks(tuple(TASKS), split)) for split in SPLITS} == {
        "train": 3592,
        "dev": 1796,
        "test": 1819,
    }


def test_the_splits_of_a_task_divide_its_variations() -> None:
    for name, count in TASKS.items():
        assert [v for split in SPLITS for v in split_range(name, split)] == list(range(count))


def test_the_numbers_of_the_paper_are_those_of_the_package() -> None:
    spec = find_spec("scienceworld")
    if spec is None or spec.origin is None:
        pytest.skip("scienceworld is not installed")
    for task in json.loads(Path(spec.origin).with_name("tasks.json").read_text()):
        assert find_names([task["task_id"]]) == (task["task_name"],)


@pytest.mark.parametrize("given", ["boil", "task-1-boil", "1-1"])
def test_a_task_has_several_names(given: str) -> None:
    assert find_names([given]) == ("boil",)


def test_a_task_named_twice_is_one() -> None:
    assert find_names(["boil", "1-1", "melt"]) == ("boil", "melt")


def test_one_name_need_not_be_in_a_list() -> None:
    assert find_names("melt") == ("melt",)


def test_an_unknown_task_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownIdError, match="did you mean 'boil'"):
        ScienceWorldEnv(tasks=["biol"])


def test_a_task_id_is_found_in_whichever_split_it_is() -> None:
    env = ScienceWorldEnv(tasks=["boil"])
    for split in SPLITS:
        for task in env.tasks(split):
            assert env.find_task(task.id) == task


def test_the_tasks_of_a_split_go_from_the_first_to_the_last_variation() -> None:
    tasks = list_tasks(("melt", "identify-life-stages-2"), "dev")
    assert [task.id for task in tasks[:2]] == ["melt/14", "melt/15"]
    assert [task.id for task in tasks[-3:]] == ["melt/20", "identify-life-stages-2/4", "identify-life-stages-2/5"]
    assert tasks[0].split == "dev"
    assert tasks[0].metadata == {"task": "melt", "variation": 14, "task_type": "melt"}


@pytest.mark.parametrize(
    "task_id", ["boil/30", "boil/-1", "boil/03", "boil/", "boil", "boil/٣", "melt/0", "", "boil/1/2"]
)
def test_an_id_that_is_none_of_the_environments_is_refused(task_id: str) -> None:
    with pytest.raises(UnknownIdError):
        ScienceWorldEnv(tasks=["boil"]).find_task(task_id)


def test_simplifications_are_passed_on_without_blanks() -> None:
    assert check_simplification(" openDoors , teleportAction ", ["boil"]) == "openDoors,teleportAction"
    assert check_simplification("", ["boil"]) == ""


def test_an_unknown_simplification_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownIdError, match="did you mean 'openDoors'"):
        ScienceWorldEnv(simplification="opendoor")


def test_easy_does_not_go_with_others() -> None:
    with pytest.raises(ConfigError, match="stands alone"):
        ScienceWorldEnv(simplification="easy,openDoors")


def test_electrical_tasks_cannot_do_without_electricity() -> None:
    with pytest.raises(ConfigError, match="test-conductivity"):
        ScienceWorldEnv(tasks=["boil", "3-3"], simplification="noElectricalAction")
    ScienceWorldEnv(tasks=["boil"], simplification="noElectricalAction")


@pytest.mark.parametrize("options", [{"heap": 1}, {"recycle": 0}, {"call_timeout": 0}])
def test_a_number_out_of_range_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        ScienceWorldEnv(**options)


def test_an_unknown_kind_of_reward_is_refused() -> None:
    with pytest.raises(UnknownIdError, match="did you mean 'delta'"):
        ScienceWorldEnv(reward="dleta")  # type: ignore[arg-type]
