"""Servers of vLLM as an engine: what is sent, what is made of answers, and what becomes of servers that fail."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from helpers import run, small_llama
from openai_server import Reply, refused
from vllm_fake import VOCABULARY, FakeVllm
from vllm_reached import PLAIN, PROMPT, failure, once, reached

from agent_gym.engines.base import Completion, Sampling
from agent_gym.engines.retrying import Patience
from agent_gym.engines.vllm_server import connect
from agent_gym.errors import ContextLengthError, EngineError
from agent_gym.sections import EngineSection
from agent_gym.tools.web import Retries

# -- what is sent ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale_out", [True, False])
def test_token_ids_go_in_and_come_out_in_both_ways(scale_out: bool) -> None:
    fake = FakeVllm(scale_out=scale_out)
    with reached(fake) as engine:
        sampling = Sampling(max_tokens=4, seed=2**63 + 5, stop=("x",), stop_token_ids=(9,))
        completion = once(engine, sampling=sampling)
        assert engine.max_context == 512
    path, prompt = ("/inference/v1/generate", "token_ids") if scale_out else ("/completions", "prompt")
    asked = fake.called(path)[0].body
    assert asked["model"] == "policy" and asked[prompt] == PROMPT
    chosen = asked["sampling_params"] if scale_out else asked
    assert chosen["seed"] == 5 and chosen["stop"] == ["x"] and chosen["top_k"] == 0
    # The token that ends the model's own generations (1) always counts, and nothing is left to the server's defaults.
    assert chosen["stop_token_ids"] == [1, 9]
    assert (chosen["repetition_penalty"], chosen["min_p"], chosen["top_p"]) == (1.0, 0.0, 1.0)
    assert len(completion.token_ids) == 4 and completion.logprobs == [-2.0] * 4
    assert completion.finish_reason == "length" and not completion.exact_entropy
    assert all(entropy > 0.5 for entropy in completion.entropies)


def test_the_prompt_of_a_session_is_whole_whatever_was_sent_before() -> None:
    fake = FakeVllm()
    with reached(fake) as engine:

        async def turns() -> None:
            session = engine.session()
            for length in (2, 5, 9):
                await engine.generate(list(range(length)), PLAIN, session)
            child = session.fork(3)
            await engine.generate([0, 1, 2, 50], PLAIN, child)
            await engine.disconnect()

        run(turns())
    sent = [each.body["token_ids"] for each in fake.called("/inference/v1/generate")]
    assert sent == [list(range(2)), list(range(5)), list(range(9)), [0, 1, 2, 50]]


def test_conversations_that_begin_alike_and_branches_stay_with_one_server_and_others_are_spread() -> None:
    fakes = [FakeVllm(), FakeVllm()]
    with reached(*fakes) as engine:

        async def play() -> None:
            for start in range(6):
                sessions = [engine.session() for _ in range(2)]
                for session in sessions:
                    await engine.generate([start, 1], PLAIN, session)
                    await engine.generate([start, 1, 2, 3], PLAIN, session)
                branch = sessions[0].fork()
                await engine.generate([start, 1, 2, 3, 4], PLAIN, branch)
            await engine.disconnect()

        run(play())
    starts = [{each.body["token_ids"][0] for each in fake.called("/inference/v1/generate")} for fake in fakes]
    assert not starts[0] & starts[1] and [len(each) for each in starts] == [3, 3]


def test_a_group_too_large_for_one_server_goes_to_both() -> None:
    fakes = [FakeVllm(), FakeVllm()]
    with reached(*fakes) as engine:

        async def play() -> None:
            sessions = [engine.session() for _ in range(16)]
            for session in sessions:
                await engine.generate(PROMPT, PLAIN, session)
            await engine.disconnect()

        run(play())
    counts = [len(fake.called("/inference/v1/generate")) for fake in fakes]
    assert sum(counts) == 16 and min(counts) >= 5


def test_a_call_that_is_cancelled_closes_its_connection() -> None:
    fake = FakeVllm()
    gone = []

    def hangs(asked: Any) -> Reply:
        return Reply(hangs=True)

    fake.replies["/inference/v1/generate"] = hangs
    with reached(fake) as engine:

        async def begin_and_cancel() -> None:
            task = asyncio.ensure_future(engine.generate(PROMPT, PLAIN))
            while not fake.called("/inference/v1/generate"):
                await asyncio.sleep(0.005)
            while not fake.server.hanging:
                await asyncio.sleep(0.005)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            async with asyncio.timeout(5):
                while fake.server.hanging:
                    await asyncio.sleep(0.005)
            gone.append(True)
            await engine.disconnect()

        run(begin_and_cancel())
    assert gone


def test_a_prompt_that_does_not_fit_is_not_sent() -> None:
    fake = FakeVllm(context=6)
    with reached(fake) as engine:
        assert "context of 6" in failure(engine, ContextLengthError)
    assert not fake.called("/inference/v1/generate")


@pytest.mark.parametrize("cut", [{"top_p": 0.9}, {"top_k": 5}])
def test_log_probabilities_after_a_cut_are_refused(cut: dict[str, Any]) -> None:
    fake = FakeVllm()
    with reached(fake) as engine:
        assert "use top_p=1 and top_k=0" in failure(engine, sampling=Sampling(max_tokens=4, **cut))
    assert not fake.called("/inference/v1/generate")


def test_log_probabilities_before_temperature_are_refused_where_it_matters() -> None:
    with reached(FakeVllm(after_temperature=False)) as engine:
        once(engine)
        warm = Sampling(max_tokens=4, temperature=0.7)
        assert "--logprobs-mode processed_logprobs" in failure(engine, sampling=warm)
    with reached(FakeVllm()) as engine:
        assert once(engine, sampling=warm).logprobs == [pytest.approx(-1.4)] * 4


# -- servers that answer wrongly ---------------------------------------------------------------------------------------


def changed(**choice: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda answer: {**answer, "choices": [{**answer["choices"][0], **choice}]}


def logprobs(*values: Any) -> dict[str, Any]:
    return {"content": [{"token_id": 1, "logprob": value, "top_logprobs": []} for value in values]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed(token_ids=[1, 2, 3, 4, 5]), "5 tokens where 1 to 4"),
        (changed(token_ids=[]), "0 tokens where 1 to 4"),
        (changed(token_ids=[1, 2, 3]), "3 tokens and 4 log-probabilities"),
        (changed(token_ids=[1, 2, 3, VOCABULARY]), f"the token id {VOCABULARY}"),
        (changed(token_ids=[1, 2, 3, -1]), "the token id -1"),
        (changed(token_ids=None), "without token ids"),
        (changed(token_ids=["1", 2, 3, 4]), "without token ids"),
        (changed(logprobs=logprobs(-1.0, float("nan"), -1.0, -1.0)), "nan as a log-probability"),
        (changed(logprobs=logprobs(-1.0, None, -1.0, -1.0)), "None as a log-probability"),
        (changed(logprobs=logprobs(-1.0, -9999.0, -1.0, -1.0)), "-9999.0 as the log-probability"),
        (changed(logprobs=logprobs(-1.0, 0.5, -1.0, -1.0)), "0.5 as a log-probability"),
        (changed(logprobs=None), "without log-probabilities"),
        (changed(logprobs={"content": None}), "without log-probabilities"),
        (changed(logprobs={"content": [1, 2, 3, 4]}), "without log-probabilities"),
        (changed(finish_reason="abort"), "unfinished generation"),
        (lambda answer: {"choices": []}, "without choices"),
        (lambda answer: {"object": "list"}, "without choices"),
        (lambda answer: Reply(b"<html>"), "what is no JSON"),
    ],
)
def test_an_answer_that_cannot_be_trained_on_ends_the_run_and_names_the_server(change: Any, said: str) -> None:
    fake = FakeVllm()
    with reached(fake) as engine:
        fake.change = change
        sentence = failure(engine)
        assert said in sentence and fake.url in sentence and "--resume" in sentence


def test_a_request_that_a_server_refuses_is_told_in_its_words() -> None:
    fake = FakeVllm()
    fake.replies["/inference/v1/generate"] = lambda asked: refused(400, "logprobs must be at most 5")
    with reached(fake) as engine:
        sentence = failure(engine)
    assert "logprobs must be at most 5" in sentence and fake.url in sentence


# -- servers that are slow, broken or gone -----------------------------------------------------------------------------


def test_a_server_that_hangs_is_named_within_the_stated_time() -> None:
    fake = FakeVllm()
    fake.replies["/inference/v1/generate"] = lambda asked: Reply(hangs=True)
    with reached(fake, timeout=0.2) as engine:
        sentence = failure(engine)
    assert f"{fake.url} has not answered within 0.2 s" in sentence and "--resume" in sentence


def test_a_server_that_breaks_off_once_is_asked_again_and_one_that_is_dead_is_not() -> None:
    fake = FakeVllm()
    fake.replies["/inference/v1/generate"] = lambda asked: (
        Reply({}, cut=True) if len(fake.called("/inference/v1/generate")) == 1 else None
    )
    with reached(fake) as engine:
        assert len(once(engine).token_ids) == 4 and not engine.lost
        fake.replies = {
            "/inference/v1/generate": lambda asked: Reply({}, cut=True),
            "/health": lambda asked: refused(503, "the engine is dead"),
        }
        before = len(fake.called("/inference/v1/generate"))
        assert "has died or cannot be reached" in failure(engine)
        assert len(fake.called("/inference/v1/generate")) == before + 1


def test_a_busy_server_is_waited_for() -> None:
    fake = FakeVllm()
    fake.replies["/inference/v1/generate"] = lambda asked: (
        refused(503, "overloaded") if len(fake.called("/inference/v1/generate")) < 3 else None
    )
    with reached(fake) as engine:
        assert len(once(engine).token_ids) == 4
        fake.replies["/inference/v1/generate"] = lambda asked: refused(500, "out of memory")
        assert "does not work (500: out of memory)" in failure(engine)


def test_a_busy_server_says_how_long_it_is_waited_for() -> None:
    waited: list[float] = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    fake = FakeVllm()
    fake.replies["/inference/v1/generate"] = lambda asked: (
        refused(429, "wait", headers={"Retry-After": "7"}) if not waited else None
    )
    with reached(fake) as engine:
        engine.servers[fake.url].patience = Patience(Retries(tries=3), sleep=wait)
        once(engine)
    assert waited == [7.0]


def test_the_others_take_over_the_conversations_of_a_server_that_dies() -> None:
    fakes = [FakeVllm(), FakeVllm()]
    with reached(*fakes) as engine:

        async def play() -> list[Completion]:
            sessions = [engine.session() for _ in range(4)]
            for number, session in enumerate(sessions):
                await engine.generate([number, 1], PLAIN, session)
            for path in ("/inference/v1/generate", "/health"):
                fakes[0].replies[path] = lambda asked: Reply({}, cut=True)
            later = [engine.generate([number, 1, 2], PLAIN, session) for number, session in enumerate(sessions)]
            completions = await asyncio.gather(*later)
            await engine.disconnect()
            return list(completions)

        assert [len(each.token_ids) for each in run(play())] == [4] * 4
        assert list(engine.lost) == [fakes[0].url]
        prompts = [each.body["token_ids"] for each in fakes[1].called("/inference/v1/generate")]
        assert sorted(prompt for prompt in prompts if len(prompt) == 3) == [[number, 1, 2] for number in range(4)]
        # The last one to go ends the run, and both are named.
        for path in ("/inference/v1/generate", "/health"):
            fakes[1].replies[path] = lambda asked: Reply({}, cut=True)
        sentence = failure(engine)
        assert fakes[0].url in sentence and fakes[1].url in sentence


def test_nobody_at_the_address_is_said_at_once() -> None:
    section = EngineSection(kind="server", urls=["http://127.0.0.1:9"])
    with pytest.raises(EngineError, match=r"No server of vLLM answers at http://127.0.0.1:9: start one"):
        connect(section, model=small_llama(VOCABULARY), max_batch=4)


def test_the_key_is_sent_and_told_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "very-secret")
    fake = FakeVllm()
    with reached(fake) as engine:
        fake.replies["/inference/v1/generate"] = lambda asked: refused(401, "wrong key very-secret")
        sentence = failure(engine)
        assert fake.called("/inference/v1/generate")[0].headers["authorization"] == "Bearer very-secret"
    assert "set VLLM_API_KEY" in sentence and "very-secret" not in sentence
