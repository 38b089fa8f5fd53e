"""The engine: the same tokens alone and in company, and when they end; which runner a model gets."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import SMALL, run, small_gpt2, small_llama, small_qwen3
from transformers_asked import PROMPT, ask, ask_all, assert_numbers_are_the_models, make, talk

from agent_gym.engines.base import Completion, Sampling
from agent_gym.engines.runners import SequentialRunner, SlotRunner
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.errors import EngineError

# -- what is sampled ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_model", [small_llama, small_qwen3])
def test_a_model_of_16_bits_runs_packed(make_model: Callable[[], Any]) -> None:
    engine = make(make_model().to(torch.bfloat16))
    assert isinstance(engine._runner, SlotRunner)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("build", [small_llama, small_qwen3, small_gpt2])
def test_recorded_numbers_are_those_of_the_plain_model(build: Callable[[], Any], packed: bool) -> None:
    model = build()
    engine = make(model, packed=packed)
    prompts = [[number + 2] * (number + 1) for number in range(6)]
    for prompt, completion in zip(prompts, ask_all(engine, prompts), strict=True):
        assert len(completion.token_ids) == 8 and completion.finish_reason == "length" and completion.exact_entropy
        assert_numbers_are_the_models(model, prompt, completion)


def test_dropout_is_off_even_where_a_trainer_left_the_model_in_training_mode() -> None:
    model = small_gpt2(dropout=0.5)
    engine = make(model)
    model.train()
    completion = ask(engine, PROMPT)
    assert_numbers_are_the_models(model.eval(), PROMPT, completion)


def test_a_seed_gives_the_same_tokens_alone_and_in_a_batch_of_20() -> None:
    prompts = [[(7 * number + i) % 60 + 2 for i in range(1 + number % 5)] for number in range(20)]
    together = ask_all(make(), prompts)
    few_at_a_time = ask_all(make(max_batch=3), prompts)
    for number, prompt in enumerate(prompts):
        alone = ask(make(), prompt, seed=number)
        assert alone.token_ids == together[number].token_ids == few_at_a_time[number].token_ids
        assert alone.logprobs == pytest.approx(together[number].logprobs, abs=1e-4)


def test_another_seed_gives_other_tokens() -> None:
    engine = make()
    assert len({tuple(ask(engine, PROMPT, seed=seed).token_ids) for seed in range(20)}) == 20


@torch.no_grad()
def test_greedy_is_the_models_own_and_top_k_of_1_is_greedy() -> None:
    model = small_llama()
    engine = make(model)
    greedy = ask(engine, PROMPT, temperature=0.0)
    own = model.generate(
        torch.tensor([PROMPT]), do_sample=False, max_new_tokens=8, min_new_tokens=8, eos_token_id=None, pad_token_id=0
    )
    assert greedy.token_ids == own[0, len(PROMPT) :].tolist()
    top = ask(engine, PROMPT, top_k=1, seed=4)
    assert top.token_ids == greedy.token_ids == ask(engine, PROMPT, top_p=1e-6, seed=5).token_ids
    assert top.logprobs == pytest.approx(greedy.logprobs, abs=1e-5)
    assert_numbers_are_the_models(model, PROMPT, greedy)


@torch.no_grad()
def test_top_p_draws_only_from_the_nucleus() -> None:
    model = small_llama()
    probabilities = model(input_ids=torch.tensor([PROMPT])).logits[0, -1].softmax(-1)
    ordered, order = probabilities.sort(descending=True)
    nucleus = set(order[: int((ordered.cumsum(0) < 0.3).sum()) + 1].tolist())
    firsts = {done.token_ids[0] for done in ask_all(make(model), [PROMPT] * 200, top_p=0.3, max_tokens=1)}
    assert firsts <= nucleus and len(firsts) > 1


def test_settings_of_one_request_do_not_touch_another() -> None:
    async def mixed(engine: TransformersEngine) -> list[Completion]:
        greedy = Sampling(8, temperature=0.0)
        settings = (greedy, Sampling(8, top_k=2, seed=1), Sampling(3, seed=2), Sampling(8, seed=3))
        return list(await asyncio.gather(*(engine.generate(PROMPT, each) for each in settings)))

    engine = make()
    greedy, _, short, plain = run(mixed(engine))
    assert greedy.token_ids == ask(engine, PROMPT, temperature=0.0).token_ids
    assert short.token_ids == ask(engine, PROMPT, max_tokens=3, seed=2).token_ids
    assert plain.token_ids == ask(engine, PROMPT, seed=3).token_ids


# -- when it stops -----------------------------------------------------------------------------------------------------


def test_a_stop_token_ends_the_answer_and_is_kept() -> None:
    engine = make()
    whole = ask(engine, PROMPT, max_tokens=20, seed=1).token_ids
    stop = whole[6]
    cut = ask(engine, PROMPT, max_tokens=20, seed=1, stop_token_ids=(stop,))
    assert cut.token_ids == whole[: whole.index(stop) + 1] and cut.finish_reason == "stop"
    always = ask(make(stop_token_ids=[stop]), PROMPT, max_tokens=20, seed=1)
    assert always.token_ids == cut.token_ids


def test_the_models_end_tokens_are_the_default() -> None:
    assert TransformersEngine(small_llama()).stop_token_ids == {1}
    model = small_llama()
    model.generation_config.eos_token_id = [1, 7]
    assert TransformersEngine(model).stop_token_ids == {1, 7}
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    assert TransformersEngine(model).stop_token_ids == frozenset()


def test_a_stop_string_ends_the_answer_with_its_last_token(tokenizer: Any, model: Any) -> None:
    engine = make(model, tokenizer=tokenizer)
    prompt = tokenizer.encode("say apple")
    whole = ask(engine, prompt, max_tokens=30, seed=3)
    pieces = [tokenizer.decode(whole.token_ids[:count]) for count in range(1, 31)]
    stop = pieces[9][-3:]
    cut = ask(engine, prompt, max_tokens=30, seed=3, stop=("never this", stop))
    first = next(count for count, piece in enumerate(pieces, 1) if stop in piece)
    assert cut.token_ids == whole.token_ids[:first] and cut.finish_reason == "stop" and first > 1


def test_max_tokens_ends_the_answer() -> None:
    for count in (1, 2, 9):
        done = ask(make(), PROMPT, max_tokens=count)
        assert len(done.token_ids) == len(done.logprobs) == len(done.entropies) == count
        assert done.finish_reason == "length"


# -- choosing how to run -----------------------------------------------------------------------------------------------


def test_a_model_that_cannot_be_packed_runs_row_by_row_and_insisting_is_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        **SMALL,
        sliding_window=4,
    )
    model = MistralForCausalLM(config).eval()
    engine = make(model)
    assert isinstance(engine._runner, SequentialRunner) and "one row at a time" in caplog.text
    session = engine.session()
    ids = talk(engine, session, PROMPT, 2)
    done = ask(engine, ids, session)
    assert_numbers_are_the_models(model, ids, done)
    with pytest.raises(EngineError, match="cannot run packed"):
        make(model, packed=True)


def test_an_engine_serves_one_event_loop_after_another() -> None:
    engine = make()
    session = engine.session()

    async def left_in_the_middle() -> None:
        task = asyncio.ensure_future(engine.generate(PROMPT, Sampling(400), session))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()

    run(left_in_the_middle())
    assert ask(engine, PROMPT, seed=3).token_ids == ask(make(), PROMPT, seed=3).token_ids
