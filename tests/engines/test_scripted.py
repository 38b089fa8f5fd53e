"""An engine that answers from a list or a function."""

import pytest
from helpers import run
from hypothesis import given
from hypothesis import strategies as st

from agent_gym.engines.base import Completion, Sampling, Session
from agent_gym.engines.scripted import END, ByteTokenizer, ScriptedEngine
from agent_gym.errors import EngineError


def say(engine: ScriptedEngine, prompt: str, session: Session | None = None, max_tokens: int = 99) -> Completion:
    ids = engine.tokenizer.encode(prompt)
    completion: Completion = run(engine.generate(ids, Sampling(max_tokens=max_tokens), session))
    return completion


def text(completion: Completion) -> str:
    return ByteTokenizer().decode(completion.token_ids)


@given(st.text())
def test_bytes_decode_to_the_text_that_was_encoded(written: str) -> None:
    ids = ByteTokenizer().encode(written)
    if "\ufffd" not in written and written.isprintable():
        assert ByteTokenizer().decode([*ids, END]) == written.encode("utf-8", "replace").decode()
    assert all(0 <= token < END for token in ids)


def test_each_session_gets_the_answers_from_their_start_and_the_last_is_repeated() -> None:
    engine = ScriptedEngine(["one", "two"])
    first, second = engine.session(), engine.session()
    assert [text(say(engine, "p", first)) for _ in range(3)] == ["one", "two", "two"]
    assert text(say(engine, "p", second)) == "one"
    assert [text(say(engine, "p")) for _ in range(2)] == ["one", "one"]


def test_a_function_sees_only_what_is_new_in_the_prompt() -> None:
    seen: list[str] = []
    engine = ScriptedEngine(lambda new: seen.append(new) or f"<{new}>")
    session = engine.session()
    answer = say(engine, "hello", session)
    prompt = [*engine.tokenizer.encode("hello"), *answer.token_ids, *engine.tokenizer.encode("more")]
    run(engine.generate(prompt, Sampling(), session))
    assert seen == ["hello", "more"] and text(answer) == "<hello>"


def test_a_fork_goes_on_from_where_its_parent_is() -> None:
    engine = ScriptedEngine(["one", "two", "three"])
    parent = engine.session()
    say(engine, "p", parent)
    child = parent.fork()
    assert [text(say(engine, "p", child)) for _ in range(2)] == ["two", "three"]
    assert text(say(engine, "p", parent)) == "two"


def test_a_fork_that_is_cut_shorter_has_not_given_the_last_answer() -> None:
    engine = ScriptedEngine(["one", "two", "three"])
    parent = engine.session()
    say(engine, "p", parent)
    say(engine, "p one and", parent)
    child, fresh = parent.fork(len("p one and")), parent.fork(0)
    assert (text(say(engine, "p one and", child)), text(say(engine, "p", fresh))) == ("two", "one")
    assert text(say(engine, "p one and two", parent)) == "three"
    seen: list[str] = []
    listening = ScriptedEngine(lambda new: seen.append(new) or "x")
    session = listening.session()
    say(listening, "hello", session)
    say(listening, "hello..world", session)
    say(listening, "hello..world", session.fork(len("hello..world") - 1))
    assert seen == ["hello", "world", "world"]


def test_an_answer_ends_with_the_end_token_or_with_max_tokens() -> None:
    engine = ScriptedEngine(["abc"])
    whole, cut = say(engine, "p"), say(engine, "p", max_tokens=3)
    assert (whole.token_ids, whole.finish_reason) == ([97, 98, 99, END], "stop")
    assert (cut.token_ids, cut.finish_reason) == ([97, 98, 99], "length")
    assert len(cut.logprobs) == len(cut.entropies) == 3


def test_sync_counts_versions() -> None:
    engine = ScriptedEngine(["a"])
    run(engine.sync())
    assert say(engine, "p").engine_version == engine.version == 1


def test_no_answers_and_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one answer"):
        ScriptedEngine([])
    for values in ({"max_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}):
        with pytest.raises(EngineError, match=next(iter(values))):
            Sampling(**values)  # type: ignore[arg-type]
