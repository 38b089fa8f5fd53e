"""Servers of vLLM as an engine: what is sent, what is made of answers, and what becomes of servers that fail."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import run, small_llama
from openai_server import Reply, refused
from vllm_fake import VOCABULARY, FakeVllm, vllm_serving

from agent_gym.engines.adapters import CONFIG, WEIGHTS, adapter_weights, add_adapters
from agent_gym.engines.base import Completion, Sampling
from agent_gym.engines.pushing import ADAPTER, FilePusher, choose_pusher, held_back
from agent_gym.engines.retrying import Patience
from agent_gym.engines.vllm_http import VllmServer
from agent_gym.engines.vllm_server import VllmServerEngine, connect
from agent_gym.errors import ContextLengthError, EngineError, RefusedError
from agent_gym.sections import EngineSection, LoraSection
from agent_gym.tools.web import Retries

PROMPT = [3, 4, 5, 6]
PLAIN = Sampling(max_tokens=4, seed=7)


async def no_wait(seconds: float) -> None:
    return None


@contextmanager
def reached(
    *fakes: FakeVllm, timeout: float = 30.0, pushes: bool = True, model: Any = None, **keys: Any
) -> Iterator[VllmServerEngine]:
    """Run servers, and connect to them; waits between tries take no time."""
    with ExitStack() as stack:
        for fake in fakes:
            stack.enter_context(vllm_serving(fake))
        section = EngineSection(kind="server", urls=[fake.url for fake in fakes], timeout=timeout, **keys)
        engine = connect(section, model=model or small_llama(VOCABULARY), max_batch=64, pushes=pushes)
        for server in engine.servers.values():
            server.patience = Patience(Retries(tries=3), request=timeout, sleep=no_wait)
        yield engine
        run(engine.aclose())


def once(engine: VllmServerEngine, prompt: list[int] = PROMPT, sampling: Sampling = PLAIN) -> Completion:
    async def work() -> Completion:
        try:
            return await engine.generate(prompt, sampling)
        finally:
            await engine.disconnect()

    completion: Completion = run(work())
    return completion


def failure(engine: VllmServerEngine, kind: type[EngineError] = RefusedError, **more: Any) -> str:
    with pytest.raises(kind) as caught:
        once(engine, **more)
    return str(caught.value)


def weights(value: float) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in small_llama(VOCABULARY).named_parameters():
        yield name, torch.full_like(parameter, value)


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
            assert fake.server.hanging == 1
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


# -- weights -----------------------------------------------------------------------------------------------------------

PUSHED = ["/pause", "/collective_rpc", "/update_weight_version", "/reset_prefix_cache", "/resume"]


def test_every_server_takes_the_same_weights_and_forgets_what_it_read_under_the_old_ones(tmp_path: Any) -> None:
    fakes = [FakeVllm(), FakeVllm()]
    with reached(*fakes, sync_folder=str(tmp_path)) as engine:
        assert run(engine.score(PROMPT)) == [-2.0] * 3
        run(engine.sync(weights(1.25)))
        assert [fake.order() for fake in fakes] == [PUSHED, PUSHED]
        assert [(fake.bias, fake.label) for fake in fakes] == [(1.25, "1")] * 2
        assert run(engine.score(PROMPT)) == [-1.25] * 3 and engine.version == 1
        assert list(tmp_path.iterdir()) == []


def test_a_server_that_keeps_its_weights_is_found_out_however_small_the_update() -> None:
    fakes = [FakeVllm(), FakeVllm()]
    with reached(*fakes) as engine:
        run(engine.sync(weights(1.0)))
        fakes[1].keeps = True
        with pytest.raises(EngineError, match=f"{fakes[1].url} has taken new weights and does not hold them") as caught:
            run(engine.sync(weights(1.0 + 1e-6)))
        # The comparison of log-probabilities would not have seen it.
        assert run(engine.score(PROMPT)) == pytest.approx([-1.0] * 3, abs=1e-5)
        assert f"{fakes[0].url} hold the new ones" in str(caught.value) and engine.version == 1


def test_weights_that_lack_tensors_reach_no_server(tmp_path: Any) -> None:
    fake = FakeVllm()
    with reached(fake, sync_folder=str(tmp_path)) as engine:
        some = ((name, tensor) for name, tensor in weights(1.0) if "layers.0" not in name)
        with pytest.raises(EngineError, match=r"The new weights are not all: \d+ are missing, 'model.layers.0"):
            run(engine.sync(some))
        assert fake.order() == [] and engine.version == 0 and list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_see_all_files_is_named() -> None:
    fake = FakeVllm()

    def half(asked: Any) -> Reply:
        return Reply({"results": [{"tensors": 1, "read": [1.0, 1.0, 4.0], "given": [1.0] * 3, "held": [1.0] * 3}]})

    fake.replies["/collective_rpc"] = half
    with reached(fake) as engine, pytest.raises(EngineError, match=r"has read 1 tensors in .* on a disk that both see"):
        run(engine.sync(weights(1.0)))


def test_an_answer_says_which_weights_it_is_of_even_where_the_version_is_set_anew() -> None:
    fake = FakeVllm()
    with reached(fake) as engine:
        assert once(engine).engine_version == 0
        run(engine.sync(weights(1.0)))
        engine.version = 40
        assert once(engine).engine_version == 40
        run(engine.sync(weights(1.5)))
        assert once(engine).engine_version == 41
        # What was held back or is late may still be of the weights before.
        fake.label = "1"
        assert once(engine).engine_version == 40


def test_a_server_that_cannot_load_is_named_and_what_the_others_hold_is_said(tmp_path: Any) -> None:
    fakes = [FakeVllm(), FakeVllm()]
    fakes[1].replies["/collective_rpc"] = lambda asked: Reply({"results": [{"error": "KeyError: 'a'", "tensors": 1}]})
    with reached(*fakes, sync_folder=str(tmp_path)) as engine:
        with pytest.raises(EngineError) as caught:
            run(engine.sync(weights(1.25)))
        sentence = str(caught.value)
        assert f"{fakes[1].url} cannot load the weights (KeyError: 'a')" in sentence
        assert f"What {fakes[1].url} now hold is not known; {fakes[0].url} hold the new ones" in sentence
        assert [fake.order()[-1] for fake in fakes] == ["/resume", "/resume"]
        assert engine.version == 0 and list(tmp_path.iterdir()) == []


def test_no_server_is_changed_where_one_cannot_be_told() -> None:
    fakes = [FakeVllm(), FakeVllm(dev=False)]
    with reached(*fakes) as engine:
        with pytest.raises(EngineError, match=r"serve-model.*No server has been changed") as caught:
            run(engine.sync(weights(1.25)))
        assert fakes[1].url in str(caught.value)
        assert fakes[0].order() == ["/pause", "/resume"] and fakes[0].bias == 2.0


def test_a_server_that_dies_before_a_push_is_left_out_and_is_used_again_once_it_is_back() -> None:
    fakes = [FakeVllm(), FakeVllm()]
    with reached(*fakes) as engine:
        for path in ("/pause", "/health"):
            fakes[0].replies[path] = lambda asked: Reply({}, cut=True)
        run(engine.sync(weights(1.25)))
        assert list(engine.lost) == [fakes[0].url] and fakes[1].bias == 1.25
        fakes[0].replies.clear()
        run(engine.sync(weights(1.5)))
        assert not engine.lost and [fake.bias for fake in fakes] == [1.5, 1.5]


def hanging(asked: Any) -> Reply:
    return Reply(hangs=True)


def cut_off(asked: Any) -> Reply:
    return Reply({}, cut=True)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"/pause": hanging}, "has not answered /pause?mode=wait within 0.3 s"),
        ({"/collective_rpc": hanging}, "has not answered /collective_rpc within 0.3 s"),
        ({"/resume": hanging}, "has not answered /resume within 0.3 s"),
        ({"/collective_rpc": cut_off, "/update_weight_version": cut_off, "/resume": cut_off}, "has died"),
    ],
)
def test_a_server_that_hangs_or_dies_within_a_push_is_left_out_and_the_others_go_on(broken: Any, said: str) -> None:
    fakes = [FakeVllm(), FakeVllm()]
    with reached(*fakes, sync_timeout=0.3) as engine:
        fakes[0].replies = dict(broken)
        run(engine.sync(weights(1.25)))
        assert list(engine.lost) == [fakes[0].url] and said in engine.lost[fakes[0].url]
        assert engine.version == 1 and fakes[1].bias == 1.25 and fakes[1].order() == PUSHED
        assert once(engine).engine_version == 1


def test_a_server_that_does_not_forget_what_it_read_under_the_old_weights_ends_the_run() -> None:
    fake = FakeVllm()
    fake.replies["/reset_prefix_cache"] = lambda asked: Reply({"success": False})
    with reached(fake) as engine, pytest.raises(EngineError, match="keeps what it has cached under the old weights"):
        run(engine.sync(weights(1.25)))
    assert fake.order()[-1] == "/resume"


def test_a_push_that_is_broken_off_lets_the_servers_go_on_and_leaves_no_files(tmp_path: Any) -> None:
    fakes = [FakeVllm(), FakeVllm()]
    fakes[0].replies["/collective_rpc"] = hanging
    with reached(*fakes, sync_folder=str(tmp_path)) as engine:

        async def begin_and_cancel() -> None:
            task = asyncio.ensure_future(engine.sync(weights(1.25)))
            while not fakes[0].called("/collective_rpc"):
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        run(begin_and_cancel())
        assert [fake.order()[-1] for fake in fakes] == ["/resume"] * 2
        assert engine.version == 0 and list(tmp_path.iterdir()) == []


def test_weights_that_break_off_leave_no_files_and_no_server_is_told(tmp_path: Any) -> None:
    def broken() -> Iterator[tuple[str, torch.Tensor]]:
        yield "a", torch.ones(2)
        raise RuntimeError("out of memory")

    fake = FakeVllm()
    with reached(fake, sync_folder=str(tmp_path)) as engine:
        with pytest.raises(RuntimeError, match="out of memory"):
            run(engine.sync(broken()))
        assert fake.order() == [] and list(tmp_path.iterdir()) == []


def test_what_waits_for_new_weights_is_not_too_slow() -> None:
    fake = FakeVllm()
    with reached(fake, timeout=0.2) as engine:
        server, held = engine.servers[fake.url], []
        fake.replies["/collective_rpc"] = lambda asked: held.append(server.held)
        run(engine.sync(weights(1.25)))
        assert held == [True] and not server.held

        async def play(tries: int) -> Completion:
            fake.replies["/inference/v1/generate"] = hanging
            before = len(fake.called("/inference/v1/generate"))
            with held_back([server]):
                task = asyncio.ensure_future(engine.generate(PROMPT, PLAIN))
                while len(fake.called("/inference/v1/generate")) < before + tries:
                    await asyncio.sleep(0.01)
            if tries > 1:
                fake.replies.clear()
            try:
                return await task
            finally:
                await engine.disconnect()

        assert run(play(3)).logprobs == [-1.25] * 4 and not engine.lost
        # One that goes on hanging is found out all the same.
        with pytest.raises(RefusedError, match="has not answered within"):
            run(play(1))


def test_servers_that_disagree_are_named() -> None:
    fakes = [FakeVllm(), FakeVllm()]
    with reached(*fakes) as engine:
        fakes[0].bias = 2.5
        with pytest.raises(EngineError, match="hold different weights") as caught:
            run(engine.score(PROMPT))
        assert all(fake.url in str(caught.value) for fake in fakes)


def test_a_process_that_does_not_push_reads_the_weights_to_their_end_and_counts_along() -> None:
    fake = FakeVllm()
    with reached(fake, pushes=False) as engine:
        given = weights(1.0)
        run(engine.sync(given))
        assert next(given, None) is None and engine.version == 1 and fake.order() == []


def test_a_process_that_does_not_push_samples_from_the_adapter_all_the_same(tmp_path: Any) -> None:
    fake, model = FakeVllm(adapters=True), adapted()
    with reached(fake, model=model, pushes=False, sync_folder=str(tmp_path)) as engine:
        assert engine.takes_adapter
        run(engine.sync(adapter_weights(model)))
        once(engine)
        assert fake.called("/inference/v1/generate")[-1].body["model"] == ADAPTER
    assert fake.order() == [] and list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Any) -> None:
    (tmp_path / "file").touch()
    said = r"cannot be written to .*file/inside.*engine.sync_folder"
    with (
        reached(FakeVllm(), sync_folder=str(tmp_path / "file" / "inside")) as engine,
        pytest.raises(EngineError, match=said),
    ):
        run(engine.sync(weights(1.0)))


def adapted() -> Any:
    pytest.importorskip("peft", reason="needs the extra lora")
    model = small_llama(VOCABULARY)
    add_adapters(model, LoraSection(rank=2), base=None, seed=0)
    return model


def test_an_adapter_is_swapped_in_where_every_server_loads_them(tmp_path: Any) -> None:
    fake, model = FakeVllm(adapters=True), adapted()
    with reached(fake, model=model, sync_folder=str(tmp_path)) as engine:
        assert engine.takes_adapter
        run(engine.sync(adapter_weights(model)))
        loaded = fake.called("/load_lora_adapter")[0].body
        assert loaded["load_inplace"] and Path(loaded["lora_path"]).is_relative_to(tmp_path)
        assert {path.name for path in Path(loaded["lora_path"]).iterdir()} >= {WEIGHTS, CONFIG}
        once(engine)
        assert fake.called("/inference/v1/generate")[-1].body["model"] == loaded["lora_name"]
    assert fake.order() == ["/pause", "/load_lora_adapter", *PUSHED[2:]] and list(tmp_path.iterdir()) == []


def test_an_adapter_is_replaced_only_while_the_servers_stand_still(tmp_path: Any) -> None:
    fake, model = FakeVllm(adapters=True), adapted()
    with reached(fake, model=model, sync_folder=str(tmp_path)) as engine:
        run(engine.sync(adapter_weights(model)))
        place = Path(fake.called("/load_lora_adapter")[0].body["lora_path"])
        before, at_pause = (place / WEIGHTS).read_bytes(), []
        fake.replies["/pause"] = lambda asked: at_pause.append((place / WEIGHTS).read_bytes())
        run(engine.sync((name, tensor + 1) for name, tensor in adapter_weights(model)))
        assert at_pause == [before] and (place / WEIGHTS).read_bytes() != before
        with pytest.raises(EngineError, match="The new weights are not all"):
            run(engine.sync(iter([])))


def test_without_servers_that_load_adapters_the_merged_weights_go_by_file() -> None:
    with reached(FakeVllm(adapters=True), FakeVllm(), model=adapted()) as engine:
        assert not engine.takes_adapter
    with pytest.raises(EngineError, match="--lora-rank 2"), reached(FakeVllm(), model=adapted(), sync="lora"):
        pass
    with pytest.raises(EngineError, match=r"set model\.lora"), reached(FakeVllm(adapters=True), sync="lora"):
        pass


def test_the_key_is_sent_and_told_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "very-secret")
    fake = FakeVllm()
    with reached(fake) as engine:
        fake.replies["/inference/v1/generate"] = lambda asked: refused(401, "wrong key very-secret")
        sentence = failure(engine)
        assert fake.called("/inference/v1/generate")[0].headers["authorization"] == "Bearer very-secret"
    assert "set VLLM_API_KEY" in sentence and "very-secret" not in sentence


def test_a_server_on_another_machine_needs_a_folder_that_both_see(tmp_path: Any) -> None:
    far = VllmServer("http://192.0.2.7:8000", key=None, key_name="KEY")
    model = small_llama(VOCABULARY)
    with pytest.raises(EngineError, match=r"http://192\.0\.2\.7:8000 is on another machine.*engine\.sync_folder"):
        choose_pusher(EngineSection(kind="server", urls=[far.url]), [far], model, str(tmp_path))
    shared = EngineSection(kind="server", urls=[far.url], sync_folder=str(tmp_path))
    assert isinstance(choose_pusher(shared, [far], model, str(tmp_path)), FilePusher)


def test_weights_go_to_other_machines_only_where_the_network_is_trusted() -> None:
    section = EngineSection(kind="server", urls=["http://vllm.invalid:8000"])
    with pytest.raises(EngineError, match=r"engine\.trust_network=true"):
        connect(section, model=small_llama(VOCABULARY), max_batch=4)
