"""Episodes as lines of JSON and as rows of parquet, and back."""

import gc
import json
from pathlib import Path

import pytest
from exchange_runs import PROMPT, episode, make_run
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_gym.cli.exporting import run_export
from agent_gym.errors import ConfigError, DataError, MissingExtraError, StoreError
from agent_gym.evaluation.exchange.exporting import Format, export
from agent_gym.evaluation.exchange.importing import import_file
from agent_gym.evaluation.exchange.jsonl import read_jsonl, write_jsonl
from agent_gym.evaluation.exchange.parquet import write_parquet
from agent_gym.evaluation.exchange.reading import Selection, Stored, stored_episodes
from agent_gym.evaluation.exchange.records import as_record, from_record
from agent_gym.store.run import RunFolder
from agent_gym.trajectory import Trajectory

REST = '"action_mask": [], "logprobs": [], "entropies": []}'


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_lines_with_tokens_come_back_as_the_run_they_were(run: Path, tmp_path: Path) -> None:
    (written,) = export(run, "jsonl", tmp_path / "all.jsonl", tokens=True)
    assert written.episodes == 6
    import_file(written.path, tmp_path / "second")
    before, after = (list(stored_episodes(path, Selection(), signals=True)) for path in (run, tmp_path / "second"))
    assert before == after
    assert before[0].signals["advantage"]


def test_lines_without_tokens_have_no_offsets_and_come_back_with_bytes_as_tokens(run: Path, tmp_path: Path) -> None:
    (written,) = export(run, "jsonl", tmp_path / "all.jsonl")
    first = lines(written.path)[0]
    assert not {"token_ids", "logprobs", "signals"} & first.keys()
    assert first["turns"][0].keys() & {"start", "end", "context_start"} == set()
    import_file(written.path, tmp_path / "second")
    (before, *_), (after, *_) = (list(stored_episodes(path, Selection())) for path in (run, tmp_path / "second"))
    assert after.trajectory.token_ids == before.trajectory.token_ids
    assert after.trajectory.turns == before.trajectory.turns


def test_the_model_goes_along_and_an_import_claims_nothing_of_how_it_was_played(run: Path, tmp_path: Path) -> None:
    (written,) = export(run, "jsonl", tmp_path / "all.jsonl")
    assert {line["model"] for line in lines(written.path)} == {"someone/model-7b"}
    assert import_file(written.path, tmp_path / "second").model == "someone/model-7b"
    config = RunFolder.open(tmp_path / "second").config
    assert config["model"] == "someone/model-7b" and config["split"] == "test"
    assert config.keys() == {"env", "model", "split", "suites", "imported"}


def test_chats_alternate_and_end_with_an_answer(run: Path, tmp_path: Path) -> None:
    (written,) = export(run, "jsonl", tmp_path / "chat.jsonl", messages=True, selection=Selection(successes=True))
    records = lines(written.path)
    assert [record["success"] for record in records] == [True] * 3
    assert records[1]["messages"][0] == {"role": "system", "content": PROMPT}
    assert [message["role"] for message in records[1]["messages"][1:]] == ["user", "assistant"] * 3
    assert records[0]["messages"][-1]["content"] == "look"


def test_a_chat_of_others_becomes_an_episode(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    path = tmp_path / "theirs.jsonl"
    path.write_text(json.dumps({"messages": messages, "task_id": "sum", "success": True, "reward": 1}) + "\n\n")
    import_file(path, tmp_path / "run", suite="math")
    (stored,) = stored_episodes(tmp_path / "run", Selection(suite="math"))
    made = stored.trajectory
    assert (made.task_id, made.success, made.reward, made.id) == ("sum", True, 1.0, "math/0/0")
    assert [(turn.observation, turn.text) for turn in made.turns] == [("2 + 2?", "4")]


def test_parquet_holds_the_same_in_columns(run: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    (written,) = export(run, "parquet", tmp_path / "all.parquet", tokens=True)
    table = parquet.read_table(written.path)
    (expected, *_) = stored_episodes(run, Selection(), signals=True)
    row = table.to_pylist(maps_as_pydicts="strict")[0]
    record = as_record(expected, tokens=True)
    assert row.keys() == record.keys()
    assert row.pop("turns") == record.pop("turns")
    assert row == record
    (chats,) = export(run, "parquet", tmp_path / "chats.parquet", messages=True)
    assert parquet.read_table(chats.path).column("messages")[0].as_py()[0]["content"] == PROMPT


def test_what_utf8_and_json_cannot_hold_is_written_all_the_same(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    odd = episode("odd", 0, ["a \ud800 b"])
    odd.entropies[0], odd.logprobs[0], odd.turns[0].reward = float("nan"), float("-inf"), float("nan")
    odd.turns[0].observation = "\udfff"
    path = tmp_path / "odd.jsonl"
    write_jsonl(path, [as_record(Stored(odd, 0, "eval"), tokens=True)])
    record = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert (record["turns"][0]["text"], record["entropies"][0], record["turns"][0]["reward"]) == ("a ? b", None, None)
    assert next(read_jsonl(path)).trajectory.turns[0].text == "a ? b"
    rows = [as_record(Stored(odd, 0, "eval"), tokens=True)]
    assert write_parquet(tmp_path / "odd.parquet", rows, messages=False, tokens=True) == 1


def test_a_selection_of_nothing_a_run_without_episodes_and_options_that_do_not_go_together(
    tmp_path: Path, run: Path
) -> None:
    with pytest.raises(ConfigError, match="has the phases eval"):
        export(run, "jsonl", tmp_path / "none.jsonl", selection=Selection(phase="train"))
    assert not list(tmp_path.glob("none*"))
    with pytest.raises(ConfigError, match="leave out --messages or --tokens"):
        export(run, "jsonl", tmp_path / "x.jsonl", messages=True, tokens=True)
    RunFolder.create(tmp_path / "empty", {})
    with pytest.raises(StoreError, match="no episodes yet"):
        export(tmp_path / "empty", "jsonl", tmp_path / "x.jsonl")
    with pytest.raises(StoreError, match="cannot be written"):
        export(run, "jsonl", run / "config.yaml" / "x.jsonl")


def test_without_pyarrow_the_command_that_installs_it_is_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"agent-gym\[parquet\]"):
        export(run, "parquet", tmp_path / "x.parquet")
    assert not list(tmp_path.glob("x*"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not an episode in JSON"),
        ("[1]", "not an episode"),
        ('{"task_id": "a"}', "neither 'turns' nor 'messages'"),
        ('{"task_id": 7, "turns": []}', "'task_id' must be of type str"),
        ('{"task_id": "a", "turns": [], "success": "yes"}', "'success' must be of type bool"),
        ('{"task_id": "a", "turns": [], "metadata": {"a": 1}}', "texts by name"),
        ('{"task_id": "a", "turns": [{"reward": "much"}]}', "'reward' must be of type float"),
        (
            '{"task_id": "a", "turns": [{"start": 0, "end": 9}], "token_ids": [], ' + REST,
            "beyond",
        ),
        (
            '{"task_id": "a", "turns": [], "token_ids": [1], ' + REST,
            "differ in number",
        ),
        ('{"task_id": "a", "turns": [], "metadata": {"cost": "abc"}}', "'cost' must be a number, and says 'abc'"),
        ('{"task_id": "a", "turns": [], "metadata": {"attempt": "x"}}', "'attempt' must be a number"),
        ('{"task_id": "a", "turns": [], "seed": 18446744073709551616}', "'seed' has more than 63 bits"),
        ('{"task_id": "a", "turns": [], "step": 18446744073709551616}', "'step' has more than 63 bits"),
        ('{"task_id": "a", "turns": [{"prompt_tokens": 1000000000000000}]}', "'prompt_tokens' has more than 40 bits"),
        (
            '{"task_id": "a", "turns": [], "token_ids": [4294967296], "action_mask": [0], "logprobs": [0], '
            '"entropies": [0]}',
            "'token_ids' has more than 31 bits",
        ),
        ("[" * 100_000, "not an episode"),
        ('{"task_id": "' + "a" * 3000 + '"}', "longer than"),
    ],
)
def test_a_line_that_is_no_episode_is_refused_by_its_number(line: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"task_id": "good", "turns": []}\n' + line + "\n")
    with pytest.raises(DataError, match=f"line 2.*{reason}"):
        list(read_jsonl(path, longest=2000 if "longer" in reason else 2**20))
    with pytest.raises(DataError):
        import_file(path, tmp_path / "run") if "longer" not in reason else list(read_jsonl(path, longest=2000))
    assert not (tmp_path / "run").exists() and not list(tmp_path.glob("*.partial"))


def test_half_a_character_in_a_line_is_spelled_out(tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    row = '"token_ids": [5], "action_mask": [1], "logprobs": [0], "entropies": [0], "signals": {"advantage": [1]}'
    path.write_text(f'{{"task_id": "\\ud83d", "id": "e\\udc00", "turns": [], {row}}}\n')
    import_file(path, tmp_path / "run")
    (stored,) = stored_episodes(tmp_path / "run", Selection(), signals=True)
    assert (stored.trajectory.task_id, stored.trajectory.id) == ("\\ud83d", "e\\udc00")
    assert stored.signals == {"advantage": [1.0]}


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
turns = st.lists(st.tuples(texts, texts, st.floats(-1e6, 1e6), st.booleans()), max_size=4)


@settings(max_examples=40, deadline=None)
@given(texts, texts, turns, st.dictionaries(texts, texts, max_size=3), st.one_of(st.none(), texts), st.booleans())
def test_a_record_and_its_episode_say_the_same(
    task: str,
    goal: str,
    played: list[tuple[str, str, float, bool]],
    about: dict[str, str],
    error: str | None,
    won: bool,
) -> None:
    made = episode("x", 0, [text for _, text, _, _ in played], success=won)
    made.task_id, made.goal, made.metadata, made.error = task, goal, about, error
    for turn, (seen, _, reward, invalid) in zip(made.turns, played, strict=True):
        turn.observation, turn.reward, turn.invalid_action = seen, reward, invalid
    record = json.loads(json.dumps(as_record(Stored(made, 3, "train"), tokens=True)))
    assert from_record(record) == Stored(made, 3, "train")


@pytest.mark.parametrize("kind", ["jsonl", "inspect"])
def test_of_many_episodes_one_is_in_memory(kind: Format, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [episode(str(number), 0, ["go"]) for number in range(40)])
    alive = []

    def heard(_: Stored) -> None:
        alive.append(sum(type(thing) is Trajectory for thing in gc.get_objects()))

    # What was there before is not looked through each time.
    gc.freeze()
    export(run, kind, tmp_path / "out", on_episode=heard)
    gc.unfreeze()
    # The one that has just been written, and the next where it has been read already.
    assert len(alive) == 40 and max(alive) - min(alive) <= 1 and max(alive) <= 2


def test_a_format_that_there_is_not_is_refused_by_name(run: Path) -> None:
    with pytest.raises(ConfigError, match="no format 'xml': choose jsonl, parquet, inspect"):
        run_export(run, "xml", None, Selection(), messages=False, tokens=False)
