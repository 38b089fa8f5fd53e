"""metrics.jsonl as it grows, is written anew, and gets long."""

import json
import math
import random
from pathlib import Path

import pytest

from agent_gym.viewer.metrics import MetricsLog


def write(path: Path, records: list[dict[str, object]], mode: str = "a") -> None:
    with path.open(mode) as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def test_only_what_is_new_is_given(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    assert log.page().records == [] and log.page().next == 0
    write(path, [{"phase": "train", "step": 1, "note": "text"}])
    first = log.page()
    assert first.records == [{"phase": "train", "step": 1, "note": "text"}]
    write(path, [{"phase": "train", "step": 2}, {"phase": "during", "step": 2}])
    second = log.page(first.next, first.generation)
    assert [record["phase"] for record in second.records] == ["train", "during"]
    assert (second.since, second.next) == (1, 3)
    assert log.page(second.next, second.generation).records == []
    assert log.last_step() == 2


def test_a_line_that_is_being_written_comes_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": ')
    log = MetricsLog(path)
    assert log.page().records == [{"step": 1}]
    with path.open("a") as file:
        file.write("2}\n")
    assert log.page(1).records == [{"step": 2}]


def test_a_broken_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": {"ste\n[1]\n\xff\xfe\n{"step": 3}\n')
    assert MetricsLog(path).page().records == [{"step": 1}, {"step": 3}]


@pytest.mark.parametrize("in_place", [False, True])
def test_a_file_that_was_written_anew_is_given_from_its_beginning(tmp_path: Path, in_place: bool) -> None:
    path, fresh = tmp_path / "metrics.jsonl", tmp_path / "fresh"
    write(path, [{"step": step} for step in range(5)])
    log = MetricsLog(path)
    seen = log.page()
    records = [{"step": step, "again": 1} for step in range(9)]
    write(path if in_place else fresh, records, "w")
    if not in_place:
        fresh.replace(path)
    answer = log.page(seen.next, seen.generation)
    assert answer.since == 0 and answer.generation != seen.generation
    assert answer.records == records


def test_a_file_that_is_gone_has_nothing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, [{"step": 1}])
    log = MetricsLog(path)
    seen = log.page()
    path.unlink()
    answer = log.page(seen.next, seen.generation)
    assert (answer.records, answer.since, answer.next) == ([], 0, 0)


def test_a_long_curve_is_thinned_to_its_extremes(tmp_path: Path) -> None:
    rng = random.Random(0)
    values = [rng.gauss(0, 1) for _ in range(5000)]
    values[1234], values[2345] = 99.0, -99.0
    records: list[dict[str, object]] = [
        {"phase": "train", "step": step, "a": value, "seconds": {"total": step}}
        | ({"rare": step} if step % 1000 == 7 else {})
        for step, value in enumerate(values)
    ]
    records.insert(3, {"phase": "before", "step": 0, "split": "dev"})
    path = tmp_path / "metrics.jsonl"
    write(path, records)
    log = MetricsLog(path)
    answer = log.page(points=100)
    assert answer.thinned and answer.next == 5001
    kept = {record["step"]: record["a"] for record in answer.records if "a" in record}
    assert len(kept) <= 100
    assert all(value == pytest.approx(values[step], rel=1e-5) for step, value in kept.items())
    assert kept[1234] == 99.0 and kept[2345] == -99.0 and {0, 4999} <= set(kept)
    assert [record["step"] for record in answer.records if "rare" in record] == [7, 1007, 2007, 3007, 4007]
    assert {"phase": "before", "step": 0, "split": "dev"} in answer.records
    steps = [record["step"] for record in answer.records if record["phase"] == "train"]
    assert steps == sorted(steps)
    assert all(record["seconds"]["total"] == record["step"] for record in answer.records if "seconds" in record)
    # What comes after it is not thinned.
    write(path, [{"phase": "train", "step": 5000, "a": 1.0, "word": "x"}])
    assert log.page(answer.next, answer.generation, points=100).records[0]["word"] == "x"


def test_stretches_without_a_number_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(
        path, [{"phase": "train", "step": step, "a": math.nan if step < 500 else float(step)} for step in range(1000)]
    )
    kept = [record["a"] for record in MetricsLog(path).page(points=20).records if "a" in record]
    assert max(kept) == 999.0 and min(kept) == 500.0


def test_what_comes_after_a_thinned_curve_is_shown_to_others_as_it_is_until_it_is_much(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, [{"phase": "train", "step": step, "a": step % 7} for step in range(2000)])
    log = MetricsLog(path)
    first = log.page(points=50)
    write(path, [{"phase": "train", "step": step, "a": 50, "word": "x"} for step in range(2000, 2010)])
    second = log.page(points=50)
    assert second.records == [*first.records, *log.page(first.next).records]
    write(path, [{"phase": "train", "step": step, "a": 100} for step in range(2010, 4000)])
    assert len(log.page(points=50).records) <= 100


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "kl": NaN, "a": -Infinity}\n')
    assert MetricsLog(tmp_path / "metrics.jsonl").page().records == [{"step": 1, "kl": None, "a": None}]
