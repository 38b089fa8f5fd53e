"""Logs that inspect_ai has written (tests/golden/inspect, version 0.3.285) become runs; malicious ones do not."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from agent_gym.errors import DataError, MissingExtraError, StoreError
from agent_gym.evaluation.exchange.archives import Archive, Limits
from agent_gym.evaluation.exchange.importing import import_file
from agent_gym.evaluation.exchange.inspect_read import as_number
from agent_gym.evaluation.exchange.reading import Selection, stored_episodes
from agent_gym.store.run import RunFolder
from agent_gym.trajectory import Trajectory

GOLDEN = Path(__file__).parents[2] / "golden" / "inspect"
LIMITS = Limits(member=100_000, members=50)


def imported(file: Path, run: Path, **options: Any) -> dict[tuple[str, str], Trajectory]:
    import_file(file, run, **options)
    found = [stored.trajectory for stored in stored_episodes(run, Selection(phase="eval"))]
    return {(made.task_id, made.metadata["attempt"]): made for made in found}


@pytest.mark.parametrize("name", ["sums.eval", "sums.json", "chunked.eval"])
def test_a_log_of_theirs_becomes_a_run(name: str, tmp_path: Path) -> None:
    if name.endswith(".eval"):
        pytest.importorskip("zstandard")
    found = imported(GOLDEN / name, tmp_path / "run")
    assert {key: made.success for key, made in found.items()} == {
        **{("1", "0"): True, ("1", "1"): True, ("six", "0"): False, ("six", "1"): False},
        **{("bad", "0"): True, ("bad", "1"): False},
    }
    broken = found["bad", "1"]
    assert broken.error == "ValueError('it broke')" and broken.turns == [] and not broken.terminated
    right = found["1", "0"]
    assert (right.id, right.group_id, right.env_id) == ("sums/0/0", "sums/0", "sums") or name != "sums.json"
    assert right.metadata | {"about.kind": "easy", "model": "mockllm/model", "answer": "ANSWER: 5"} == right.metadata
    assert json.loads(right.metadata["scores"])["match"] == "C"
    assert float(right.metadata["cost"]) == pytest.approx(0.002)
    first, second = right.turns
    assert (first.observation, first.action) == ("two and three", 'add({"a": 2, "b": 3})')
    assert first.text == 'I add.\nadd({"a": 2, "b": 3})' and first.tool_calls == 1
    assert (second.observation, second.text) == ("[add] 5", "<think>easy</think>\nANSWER: 5")
    assert [(turn.prompt_tokens, turn.generated_tokens) for turn in right.turns] == [(10, 2), (11, 2)]
    assert bytes(right.token_ids[second.start : second.end - 1]).decode() == second.text
    # A message that the log keeps apart, as an attachment or in a chunk, is told in full.
    assert found["bad", "0"].turns[0].observation.count("word") == 61
    run = RunFolder.open(tmp_path / "run")
    assert run.config["model"] == "mockllm/model" and run.config["imported"]["task"] == "sums"
    (record,) = run.metrics()
    assert (record["suite"], record["episodes"], record["failed"], record["success_rate"]) == ("sums", 6, 1, 0.6)


def test_another_scorer_and_another_name_of_the_suite(tmp_path: Path) -> None:
    found = imported(GOLDEN / "sums.json", tmp_path / "a", scorer="parts.speed", suite="math/sums")
    assert {made.score for made in found.values() if not made.error} == {0.25}
    assert {made.metadata["suite"] for made in found.values()} == {"math/sums"}
    with pytest.raises(DataError, match=r"no scorer 'marks'.*Known: match, parts"):
        imported(GOLDEN / "sums.json", tmp_path / "b", scorer="marks")
    # One that says two things has no number; that is no wrong answer.
    found = imported(GOLDEN / "sums.json", tmp_path / "c", scorer="parts")
    assert all(made.error for made in found.values())


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *[("C", 1.0), ("I", 0.0), ("P", 0.5), ("N", 0.0), ("yes", 1.0), ("No", 0.0), (True, 1.0), ("0.25", 0.25)],
        *[(7, 7.0), (float("nan"), None), ("nan", None), ("maybe", None), ([1], None), ({"a": 1}, None), (None, None)],
    ],
)
def test_values_of_scores_are_read_as_their_metrics_read_them(value: Any, number: float | None) -> None:
    assert as_number(value) == number


# -- files that are not what they should be ----------------------------------------------------------------------------

SPEC = {"task": "t", "model": "m", "created": "2026-01-01T00:00:00+00:00"}
HEADER = {"version": 2, "status": "success", "eval": SPEC}
SAMPLE = {"id": "a", "epoch": 1, "input": "hello", "target": "", "messages": [], "scores": {"s": {"value": "C"}}}


def log(path: Path, members: dict[str, Any]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content if isinstance(content, bytes) else json.dumps(content))
    return path


def test_a_small_log_is_read(tmp_path: Path) -> None:
    path = log(tmp_path / "a.eval", {"header.json": HEADER, "samples/a_epoch_1.json": SAMPLE})
    assert imported(path, tmp_path / "run", limits=LIMITS)["a", "0"].success


def lying(path: Path) -> Path:
    """A member that says that it is small, and is not."""
    log(path, {"header.json": HEADER, "samples/a_epoch_1.json": b" " * 1_000_000})
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
    content[at + 24 : at + 28] = (1000).to_bytes(4, "little")
    path.write_bytes(bytes(content))
    return path


def bomb(path: Path) -> Path:
    """A few kilobytes of Zstandard that unpack to 50 MB, and do not say so."""
    zstandard = pytest.importorskip("zstandard")
    packed = zstandard.ZstdCompressor().compress(b" " * 50_000_000)
    log(path, {"header.json": HEADER, "samples/a_epoch_1.json": SAMPLE})
    with zipfile.ZipFile(path, "a") as file:
        info = zipfile.ZipInfo("samples/b_epoch_1.json")
        file.writestr(info, packed)
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = content.rindex(signature)
        content[at + offset : at + offset + 2] = (93).to_bytes(2, "little")
    path.write_bytes(bytes(content))
    return path


def cut(path: Path) -> Path:
    path.write_bytes((GOLDEN / "sums.eval").read_bytes()[:-400])
    return path


BAD: dict[str, tuple[Any, str]] = {
    "no zip": (lambda path: path.write_bytes(b"PK\x03\x04" + b"\0" * 100) and path, "not an archive that can be read"),
    "cut off": (cut, "not an archive that can be read"),
    "no header": (lambda path: log(path, {"a.json": {}}), "no header.json"),
    "newer": (lambda path: log(path, {"header.json": {**HEADER, "version": 3}}), "inspect log convert"),
    "empty": (lambda path: log(path, {"header.json": HEADER}), "holds no episodes"),
    "absolute": (lambda path: log(path, {"header.json": HEADER, "/etc/passwd": {}}), "outside of the archive"),
    "upwards": (lambda path: log(path, {"header.json": HEADER, "samples/../../x": {}}), "outside of the archive"),
    "windows": (lambda path: log(path, {"header.json": HEADER, "C:\\x": {}}), "outside of the archive"),
    "many": (lambda path: log(path, {str(number): b"" for number in range(60)}), "more than 50 members"),
    "large": (lambda path: log(path, {"header.json": HEADER, "samples/a_epoch_1.json": b" " * 200_000}), "longer than"),
    "lying": (lying, "longer than|is broken"),
    "bomb": (bomb, "longer than"),
    "deep": (lambda path: log(path, {"header.json": b"[" * 90_000}), "is no JSON"),
    "other": (lambda path: log(path, {"header.json": HEADER, "samples/a_epoch_1.json": [1]}), "no part of a log"),
    "sample": (
        lambda path: log(path, {"header.json": HEADER, "samples/a_epoch_1.json": {"id": "a", "messages": 7}}),
        "not what it should be",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_log_that_is_broken_or_malicious_is_refused_in_a_sentence(kind: str, tmp_path: Path) -> None:
    make, reason = BAD[kind]
    path = make(tmp_path / "bad.eval")
    with pytest.raises(DataError, match=reason):
        import_file(path, tmp_path / "run", limits=LIMITS)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["bad.eval"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be read as JSON"),
        ('{"version": 2', "breaks off"),
        ("[1]", "should be '{'"),
        ('{"version": 2, "samples": [{}]}', "no log of inspect_ai"),
        ('{"version": 2, "eval": {}, "samples": [' + "[" * 50_000, "cannot be read as JSON"),
        ('{"version": 2, "eval": {}, "x": "' + "a" * 3_000_000 + '"}', "longer than"),
        ('{"version": 2, "eval": {}, "samples": [{"id": \xff', "cannot be read as JSON"),
    ],
)
def test_a_json_log_that_is_broken_or_endless_is_refused_in_a_sentence(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=reason):
        import_file(path, tmp_path / "run", limits=LIMITS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({"epoch": 10**30}, "'attempt' has more than 63 bits"),
        ({"epoch": "x"}, "not what it should be"),
        ({"model_usage": {"m": {"total_cost": "cheap"}}}, "not what it should be .*cheap"),
        (
            {"messages": [{"role": "assistant", "content": "a"}], "model_usage": {"m": {"output_tokens": 10**30}}},
            "bits",
        ),
    ],
)
def test_a_sample_with_a_number_that_is_none_is_named(odd: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = log(tmp_path / "a.eval", {"header.json": HEADER, "samples/a_epoch_1.json": SAMPLE | odd})
    with pytest.raises(DataError, match=f"sample 'a', epoch .*{reason}"):
        import_file(path, tmp_path / "run", limits=LIMITS)
    assert not (tmp_path / "run").exists()


def test_metadata_of_others_is_kept_apart_from_ours(tmp_path: Path) -> None:
    names = ("answer", "cost", "retried", "truncated_by", "task_type", "suite", "split", "attempt")
    theirs = {**dict.fromkeys(names, "GOLD"), "level": 3}
    path = log(tmp_path / "a.eval", {"header.json": HEADER, "samples/a_epoch_1.json": SAMPLE | {"metadata": theirs}})
    (made,) = imported(path, tmp_path / "run", limits=LIMITS).values()
    assert {name: made.metadata[f"about.{name}"] for name in names} == dict.fromkeys(names, "GOLD")
    assert made.metadata["about.level"] == "3"
    ours = {name for name in made.metadata if not name.startswith("about.")}
    assert ours == {"suite", "attempt", "model", "scores"} and made.metadata["suite"] == "t"


def test_the_names_of_an_archive_are_looked_through_once_for_all_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members: dict[str, Any] = {"header.json": HEADER}
    for number in range(12):
        prefix = f"samples/a{number}_epoch_1"
        members[f"{prefix}/sample.json"] = SAMPLE | {"id": f"a{number}"}
        members |= {f"{prefix}/messages/{n}.json": [{"role": "assistant", "content": f"{number}.{n}"}] for n in (10, 9)}
    looks = []

    class Counted(list[str]):
        def __iter__(self) -> Any:
            looks.append(1)
            return super().__iter__()

    made = Archive.__init__

    def counting(self: Archive, *arguments: Any) -> None:
        made(self, *arguments)
        self.names = Counted(self.names)

    monkeypatch.setattr(Archive, "__init__", counting)
    found = imported(log(tmp_path / "a.eval", members), tmp_path / "run", limits=LIMITS)
    assert [turn.text for turn in found["a11", "0"].turns] == ["11.9", "11.10"]
    assert len(found) == 12 and len(looks) < 5


def test_a_json_log_may_be_larger_than_a_sample(tmp_path: Path) -> None:
    samples = [{**SAMPLE, "id": str(number), "input": "x" * 50_000} for number in range(60)]
    path = tmp_path / "large.json"
    path.write_text(json.dumps({**HEADER, "samples": samples, "reductions": []}, indent=2))
    assert len(imported(path, tmp_path / "run", limits=LIMITS)) == 60


def test_a_run_that_exists_stays_and_a_missing_file_or_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(StoreError, match="exists"):
        import_file(GOLDEN / "sums.json", tmp_path / "run")
    with pytest.raises(DataError, match="no file"):
        import_file(tmp_path / "none.eval", tmp_path / "new")
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(MissingExtraError, match=r"agent-gym\[inspect\]"):
        import_file(GOLDEN / "sums.eval", tmp_path / "new")
    assert not (tmp_path / "new").exists()
