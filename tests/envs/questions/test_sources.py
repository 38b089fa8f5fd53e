"""Questions by task: generated, from files, from the hub."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from agent_gym.env import Task
from agent_gym.envs.questions import Generated, HubData, Loaded
from agent_gym.envs.questions.sources import SPLITS, draw_for_split, split_of
from agent_gym.errors import ConfigError, DataError, UnknownIdError

KNOWN = {"capitals": HubData("someone/capitals", {"train": "train", "test": "eval"})}


def read(row: dict[str, Any]) -> tuple[str, str] | None:
    if row.get("skip"):
        return None
    return str(row.get("id", "")), str(row["q"])


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_generated_questions_are_made_when_they_are_asked_for() -> None:
    made: list[tuple[str, int]] = []

    def make(split: str, index: int) -> str:
        made.append((split, index))
        return f"{split} {index}"

    source = Generated(make, lambda split: {"train": 10**6, "valid": 2, "test": 3}[split])
    assert len(source.tasks("train")) == 10**6 and source.tasks("train")[-1].id == "train/999999" and made == []
    assert source.question(source.find("valid/1")) == "valid 1"
    assert source.files() == {}


@pytest.mark.parametrize(
    "task_id", ["valid/2", "valid/01", "valid/-1", "valid/", "dev/0", "0", "", "valid/9" + "9" * 30]
)
def test_generated_ids_beyond_the_range_are_refused(task_id: str) -> None:
    source = Generated(lambda split, index: index, lambda split: 2)
    with pytest.raises(UnknownIdError, match="the ids go from 'train/0' to 'train/1'"):
        source.find(task_id)


def test_a_file_alone_is_the_split_that_is_played(tmp_path: Path) -> None:
    path = write(tmp_path / "set.jsonl", {"q": "a"}, {"q": "b", "id": "x/1"}, {"q": "no", "skip": True}, {"q": "c"})
    source = Loaded(path, split="test", known=KNOWN, read=read)
    assert [task.id for task in source.tasks("test")] == ["test/0", "test/x/1", "test/3"]
    assert source.question(source.find("test/x/1")) == "b"
    assert len(source.tasks("train")) == 0
    assert source.files() == {"test": path} and source.questions() == ["a", "b", "c"]


def test_each_split_can_have_a_file_of_its_own(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a.jsonl", {"q": "a", "id": 7}), write(tmp_path / "b.jsonl", {"q": "b", "id": 7})
    source = Loaded({"train": str(one), "valid": two}, split="train", known=KNOWN, read=read)
    assert source.find("train/7") == Task("train/7", "train") and source.find("valid/7").split == "valid"
    assert source.question(source.find("valid/7")) == "b"


def test_a_known_name_is_read_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def rows(self: HubData, split: str) -> list[dict[str, Any]]:
        asked.append((self.path, self.splits[split]))
        return [{"q": "from the hub"}]

    monkeypatch.setattr(HubData, "rows", rows)
    source = Loaded("capitals", split="test", known=KNOWN, read=read)
    assert asked == []
    assert source.question(source.tasks("test")[0]) == "from the hub" and len(source.tasks("valid")) == 0
    assert Loaded("any/set:part", split="test", known=KNOWN, read=read).questions() == ["from the hub"] * 3
    assert asked == [("someone/capitals", "eval"), *[("any/set", split) for split in ("train", "validation", "test")]]


def test_an_unknown_name_answers_with_the_nearest() -> None:
    with pytest.raises(UnknownIdError, match="did you mean 'capitals'"):
        Loaded("capital", split="test", known=KNOWN, read=read)


def test_a_missing_file_is_no_name_of_the_hub(tmp_path: Path) -> None:
    for data in ("data/missing.jsonl", tmp_path / "missing.jsonl", {"test": "missing.jsonl"}):
        with pytest.raises(DataError, match="There is no data file"):
            Loaded(data, split="test", known=KNOWN, read=read)


def test_a_split_that_is_none_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"q": "a"})
    with pytest.raises(ConfigError, match="'dev', which is no split"):
        Loaded({"dev": path}, split="train", known=KNOWN, read=read)


def test_rows_that_are_no_questions_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"q": "a"}, {"question": "b"})
    with pytest.raises(DataError, match=r"Row 2 of .*a\.jsonl is no question \('q'\)"):
        Loaded(path, split="train", known=KNOWN, read=read).tasks("train")


def test_two_rows_cannot_have_one_id(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"q": "a", "id": 1}, {"q": "b", "id": 1})
    with pytest.raises(DataError, match=r"Row 2 of .* has the id '1' of another row"):
        Loaded(path, split="train", known=KNOWN, read=read).tasks("train")


def test_an_unknown_task_is_told_with_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"q": "a", "id": "capital-1"})
    with pytest.raises(UnknownIdError, match="did you mean 'test/capital-1'"):
        Loaded(path, split="test", known=KNOWN, read=read).find("test/capital-2")


def test_copies_of_an_environment_share_the_source() -> None:
    source = Generated(lambda split, index: index, lambda split: 2)
    assert copy.deepcopy([source])[0] is source


def test_a_generated_question_belongs_to_one_split_whatever_it_was_drawn_for() -> None:
    drawn = {
        split: {draw_for_split(split, lambda attempt, n=n: f"{n * 7 + attempt}", str) for n in range(300)}
        for split in SPLITS
    }
    assert all(split_of(text) == split for split, texts in drawn.items() for text in texts)
    assert not drawn["train"] & drawn["test"] and not drawn["train"] & drawn["valid"]
    shares = [sum(split_of(str(number)) == split for number in range(2000)) / 2000 for split in SPLITS]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.03)


def test_too_few_different_questions_for_a_split_are_an_error() -> None:
    outside = next(split for split in SPLITS if split != split_of("the only one"))
    with pytest.raises(ConfigError, match=f"none is left for '{outside}'"):
        draw_for_split(outside, lambda attempt: "the only one", str)
