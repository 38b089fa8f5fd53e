"""Numbers in task ids are read as they are written, and nothing else is taken for one."""

import pytest

from agent_gym.task_ids import SEEDS_A_SPLIT, number_in, split_of_seed


@pytest.mark.parametrize(("id_", "number"), [("seed-0", 0), ("seed-7", 7), ("seed-1234567", 1_234_567)])
def test_a_number_after_the_prefix_is_read(id_: str, number: int) -> None:
    assert number_in(id_, "seed-") == number


@pytest.mark.parametrize(
    "id_",
    ["", "seed-", "seed-07", "seed-\u0667", "seed--1", "seed- 1", "seed-1\n", "7", "goal-7", "seed-" + "9" * 5000],
)
def test_what_is_written_otherwise_is_no_number(id_: str) -> None:
    assert number_in(id_, "seed-") is None


def test_seeds_belong_to_the_split_whose_range_has_them() -> None:
    splits = ("train", "valid")
    assert split_of_seed(0, splits) == split_of_seed(SEEDS_A_SPLIT - 1, splits) == "train"
    assert split_of_seed(SEEDS_A_SPLIT, splits) == "valid"
    assert split_of_seed(2 * SEEDS_A_SPLIT, splits) is None and split_of_seed(None, splits) is None
    assert split_of_seed(4, splits, size=5) == "train" and split_of_seed(5, splits, size=5) is None
