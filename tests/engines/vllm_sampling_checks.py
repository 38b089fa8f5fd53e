"""What vLLM in this process samples, and when it ends. Runs in the Python that has it: see test_vllm.py."""

import asyncio
from typing import Any

import pytest
import torch
from vllm_shared import (
    BLOCK,
    PROMPT,
    TOKENIZER,
    TOLERANCE,
    ask,
    ask_all,
    assert_logprobs,
    expected,
    run,
)

from agent_gym.engines.base import Completion, Sampling
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.engines.vllm import VllmEngine
from agent_gym.errors import EngineError

# -- tokens and numbers ------------------------------------------------------------------------------------------------


def test_greedy_tokens_are_those_of_transformers(engine: VllmEngine, model: Any) -> None:
    ours, theirs = (ask(each, temperature=0, max_tokens=24) for each in (TransformersEngine(model, TOKENIZER), engine))
    assert theirs.token_ids == ours.token_ids
    assert theirs.finish_reason == ours.finish_reason
    torch.testing.assert_close(theirs.logprobs, ours.logprobs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("values", [{}, {"temperature": 0.6}, {"temperature": 1.7}, {"temperature": 0.0}])
def test_logprobs_are_those_after_temperature(engine: VllmEngine, model: Any, values: dict[str, float]) -> None:
    done = ask(engine, seed=3, **values)
    assert_logprobs(model, PROMPT, done, values.get("temperature", 1.0) or 1.0)


@pytest.mark.parametrize("values", [{"top_p": 0.4}, {"top_k": 3}, {"top_k": 5, "top_p": 0.9, "temperature": 0.5}])
def test_logprobs_are_those_before_cuts(engine: VllmEngine, model: Any, values: Any) -> None:
    whole, cut = Sampling(12, seed=1), Sampling(12, seed=2, **values)
    done, other = run(ask_all(engine, [PROMPT, PROMPT], [cut, whole]))
    assert_logprobs(model, PROMPT, done, cut.temperature)
    assert_logprobs(model, PROMPT, other)
    if top_k := values.get("top_k"):
        ids = torch.tensor([PROMPT + done.token_ids])
        logits = model(input_ids=ids).logits[0, len(PROMPT) - 1 : -1]
        ranks = (logits > logits.gather(1, ids[0, len(PROMPT) :, None])).sum(-1)
        assert int(ranks.max()) < top_k


def test_entropies_are_lower_bounds_and_exact_where_all_mass_is_named(engine: VllmEngine, model: Any) -> None:
    done = ask(engine, temperature=0.05, seed=1)
    _, entropies = expected(model, PROMPT, done, 0.05)
    torch.testing.assert_close(torch.tensor(done.entropies), entropies, atol=0.02, rtol=0.02)
    flat = ask(engine, seed=1)
    _, entropies = expected(model, PROMPT, flat)
    assert all(0 < ours <= exact + 1e-3 for ours, exact in zip(flat.entropies, entropies.tolist(), strict=True))
    assert not flat.exact_entropy


def test_scores_are_those_of_transformers(engine: VllmEngine, model: Any) -> None:
    scores = run(engine.score(PROMPT))
    assert len(scores) == len(PROMPT) - 1
    torch.testing.assert_close(scores, run(TransformersEngine(model).score(PROMPT)), atol=TOLERANCE, rtol=0)
    assert run(engine.score(PROMPT[:1])) == []


# -- seeds -------------------------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_tokens_alone_and_in_company(engine: VllmEngine) -> None:
    prompts = [PROMPT[: 20 + 3 * number] for number in range(8)]
    alone = [ask(engine, prompt, seed=number).token_ids for number, prompt in enumerate(prompts)]
    together = run(ask_all(engine, prompts, [Sampling(12, seed=number) for number in range(8)]))
    assert [done.token_ids for done in together] == alone


def test_different_seeds_give_different_tokens_and_so_do_large_ones(engine: VllmEngine) -> None:
    samplings = [Sampling(12, seed=seed) for seed in (0, 1, 2**62 + 5, 2**63 - 1, 2**64 - 1, -1)]
    done = run(ask_all(engine, [PROMPT] * 6, samplings))
    assert len({tuple(each.token_ids) for each in done[:4]}) == 4
    assert ask(engine, seed=-1).token_ids == done[5].token_ids


# -- ends --------------------------------------------------------------------------------------------------------------


def test_a_stop_string_ends_the_generation_and_is_kept_as_with_transformers(engine: VllmEngine, model: Any) -> None:
    free = ask(engine, seed=5, max_tokens=40)
    text = TOKENIZER.decode(free.token_ids[4:7]).strip()
    done = ask(engine, seed=5, max_tokens=40, stop=(text,))
    assert done.finish_reason == "stop"
    assert done.token_ids == free.token_ids[: len(done.token_ids)]
    assert text in TOKENIZER.decode(done.token_ids)
    assert text not in TOKENIZER.decode(done.token_ids[:-1])
    assert len(done.logprobs) == len(done.entropies) == len(done.token_ids)


def test_a_stop_token_ends_the_generation_and_is_kept(engine: VllmEngine) -> None:
    free = ask(engine, seed=6)
    wanted = free.token_ids[5]
    done = ask(engine, seed=6, stop_token_ids=(wanted,))
    assert done.token_ids == free.token_ids[: free.token_ids.index(wanted) + 1]
    assert (done.finish_reason, free.finish_reason) == ("stop", "length")


def test_the_models_own_end_token_ends_the_generation(engine: VllmEngine) -> None:
    assert engine.stop_token_ids == {TOKENIZER.eos_token_id}


@pytest.mark.parametrize(
    ("prompt", "said"), [([], "empty prompt"), ([1] * 1020, "exceed the model's context"), ([10**6], "refuses")]
)
def test_a_prompt_that_cannot_be_read_is_refused_and_the_others_go_on(
    engine: VllmEngine, prompt: list[int], said: str
) -> None:
    async def scene() -> list[Any]:
        answers = (engine.generate(each, Sampling(8)) for each in (prompt, PROMPT))
        return await asyncio.gather(*answers, return_exceptions=True)

    refused, done = run(scene())
    assert isinstance(refused, EngineError)
    assert said in str(refused)
    assert len(done.token_ids) == 8


def test_a_cancelled_request_leaves_vllm(engine: VllmEngine) -> None:
    async def scene() -> tuple[int, int]:
        long = asyncio.ensure_future(engine.generate(PROMPT, Sampling(900)))
        short = await engine.generate(PROMPT, Sampling(4))
        assert len(short.token_ids) == 4
        running = len(engine._thread._running)
        long.cancel()
        await asyncio.gather(long, return_exceptions=True)
        # A call waits until nothing is in flight: 900 tokens, had the request stayed.
        left = await asyncio.wrap_future(engine._thread.call(lambda inner: inner.get_num_unfinished_requests()))
        return running, left

    before = engine.generated_tokens
    assert run(scene()) == (1, 0)
    assert engine.generated_tokens - before == 4


def test_the_event_loop_goes_on_while_vllm_computes(engine: VllmEngine) -> None:
    async def scene() -> int:
        task, turns = asyncio.ensure_future(engine.generate(PROMPT, Sampling(64))), 0
        while not task.done():
            turns += 1
            await asyncio.sleep(0.001)
        await task
        return turns

    assert run(scene()) > 10


# -- prefixes ----------------------------------------------------------------------------------------------------------


def test_a_second_turn_and_a_fork_read_only_what_is_new(engine: VllmEngine) -> None:
    session = engine.session()

    def turn(prompt: list[int], at: Any) -> tuple[Completion, int]:
        before = engine.prompt_tokens - engine.cached_tokens
        done: Completion = run(engine.generate(prompt, Sampling(20, seed=len(prompt)), at))
        return done, engine.prompt_tokens - engine.cached_tokens - before

    first, read = turn(PROMPT, session)
    assert read == len(PROMPT)
    second_prompt = [*PROMPT, *first.token_ids, *PROMPT[:9]]
    fork = session.fork(len(PROMPT))
    _, read = turn(second_prompt, session)
    # All but the tokens after the last full block of what was there before, and the last generated token.
    known = len(PROMPT) + len(first.token_ids) - 1
    assert read == len(second_prompt) - known // BLOCK * BLOCK
    forked_prompt = [*PROMPT, *PROMPT[20:60]]
    _, read = turn(forked_prompt, fork)
    assert read == len(forked_prompt) - len(PROMPT) // BLOCK * BLOCK
    session.close()
    with pytest.raises(EngineError, match="closed"):
        turn(second_prompt, session)
