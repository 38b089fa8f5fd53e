"""Keys and values kept over turns and forks, new weights, and accidents: the tokens stay what they would have been."""

import asyncio
from typing import Any

import pytest
import torch
from helpers import run, small_llama
from transformers_asked import PROMPT, ask, ask_all, assert_numbers_are_the_models, broken, make, talk

from agent_gym.engines.base import Completion, Sampling
from agent_gym.engines.runners import SlotRunner
from agent_gym.engines.scripted import ScriptedEngine
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.errors import EngineError

# -- sessions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_keys_and_values_kept_over_turns_change_nothing(packed: bool) -> None:
    engine = make(packed=packed)
    assert talk(engine, engine.session(), PROMPT, 6) == talk(engine, None, PROMPT, 6)


@pytest.mark.parametrize("packed", [True, False])
def test_a_session_reads_only_what_is_new(packed: bool) -> None:
    model = small_llama()
    engine = make(model, packed=packed)
    session = engine.session()
    ids = talk(engine, session, PROMPT, 2)
    widths: list[int] = []
    model.register_forward_pre_hook(lambda m, a, k: widths.append(k["input_ids"].shape[1]), with_kwargs=True)
    ask(engine, ids, session, max_tokens=3)
    assert widths == [4, 1, 1]


@pytest.mark.parametrize("packed", [True, False])
def test_a_forked_session_and_its_parent_go_their_own_ways(packed: bool) -> None:
    engine = make(packed=packed)
    parent = engine.session()
    prefix = talk(engine, parent, PROMPT, 2)
    child = parent.fork()
    last = child.fork()
    for seed, session in ((1, child), (2, parent), (3, last.fork()), (4, last)):
        if session is last:
            parent.close()
        assert talk(engine, session, prefix, 3, seed) == talk(engine, None, prefix, 3, seed)


@pytest.mark.parametrize("packed", [True, False])
def test_a_fork_that_is_cut_shorter_has_not_seen_what_its_parent_said(packed: bool) -> None:
    engine = make(packed=packed)
    parent = engine.session()
    prefix = talk(engine, parent, PROMPT, 2)
    said = run(engine.generate(prefix, Sampling(max_tokens=4, seed=5), parent))
    child = parent.fork(len(prefix) - 1)
    assert child.cached == len(prefix) - 1
    again = run(engine.generate(prefix, Sampling(max_tokens=4, seed=5), child))
    assert again.token_ids == said.token_ids
    assert again.logprobs == pytest.approx(said.logprobs, abs=1e-5)
    assert talk(engine, parent.fork(1), PROMPT, 2) == talk(engine, None, PROMPT, 2)
    assert talk(engine, parent.fork(0), PROMPT, 2) == talk(engine, None, PROMPT, 2)


def test_a_fork_of_a_fresh_session_is_fresh() -> None:
    engine = make()
    assert talk(engine, engine.session().fork(), PROMPT, 2) == talk(engine, None, PROMPT, 2)


def test_sessions_opened_and_closed_in_odd_orders_leave_the_others_right() -> None:
    engine = make()
    starts = [[number + 2, number + 3, number + 4] for number in range(7)]
    sessions = [engine.session() for _ in starts]

    async def turns(which: list[int], ids: dict[int, list[int]]) -> None:
        requests = [engine.generate(ids[n], Sampling(4, seed=len(ids[n]) + n), sessions[n]) for n in which]
        for number, done in zip(which, await asyncio.gather(*requests), strict=True):
            ids[number] += [*done.token_ids, 9]

    ids = {number: list(start) for number, start in enumerate(starts)}
    for which, closed in (([0, 1, 2, 3], [1]), ([3, 0, 2], [0]), ([2, 4, 5, 6, 3], [6, 2]), ([5, 3, 4], [])):
        run(turns(which, ids))
        for number in closed:
            sessions[number].close()
            sessions[number].close()
    for number in (3, 4, 5):
        alone = list(starts[number])
        while len(alone) < len(ids[number]):
            alone += [*ask(make(), alone, max_tokens=4, seed=len(alone) + number).token_ids, 9]
        assert alone == ids[number]
    assert isinstance(engine._runner, SlotRunner)
    assert sorted(slot.index for slot in engine._runner._slots) == [0, 1, 2]


def test_requests_without_a_session_leave_nothing_behind() -> None:
    engine = make()
    ask_all(engine, [PROMPT, [3], PROMPT, [4, 4]])
    assert not engine._sessions and not engine._runner._slots  # type: ignore[union-attr]


def test_members_of_a_group_share_the_reading_of_their_prompt_and_nothing_else() -> None:
    model = small_llama()
    widths: list[int] = []
    engine = make(model)
    model.register_forward_pre_hook(lambda m, a, k: widths.append(k["input_ids"].shape[1]), with_kwargs=True)
    group = ask_all(engine, [PROMPT] * 8)
    assert widths == [len(PROMPT)] + [8] * 7
    assert len({tuple(done.token_ids) for done in group}) == 8
    for seed, done in enumerate(group):
        assert done.token_ids == ask(make(), PROMPT, seed=seed).token_ids
        assert_numbers_are_the_models(model, PROMPT, done)


# -- accidents ---------------------------------------------------------------------------------------------------------


def test_requests_that_cannot_be_served_are_refused_at_once() -> None:
    engine = make()
    for prompt, sampling, sentence in (
        ([], Sampling(), "empty prompt"),
        ([3] * 510, Sampling(3), "exceed the model's context of 512"),
        ([3], Sampling(stop=("x",)), "need a tokenizer"),
    ):
        with pytest.raises(EngineError, match=sentence):
            run(engine.generate(prompt, sampling))
    assert len(ask(engine, [3] * 510, max_tokens=2).token_ids) == 2
    session = engine.session()
    done = ask(engine, PROMPT, session)
    with pytest.raises(EngineError, match="did not grow"):
        ask(engine, [*PROMPT, *done.token_ids][:-1], session)
    session.close()
    with pytest.raises(EngineError, match="closed"):
        ask(engine, PROMPT, session)
    with pytest.raises(EngineError, match="max_batch"):
        make(max_batch=0)


@pytest.mark.parametrize("packed", [True, False])
def test_an_error_of_the_forward_pass_reaches_all_who_wait_and_the_engine_goes_on(packed: bool) -> None:
    model = small_llama()
    engine = make(model, max_batch=2, packed=packed)
    session = engine.session()
    ids = talk(engine, session, PROMPT, 2)

    async def gather() -> list[Any]:
        requests = [engine.generate(PROMPT, Sampling(4)) for _ in range(4)]
        return await asyncio.gather(engine.generate(ids, Sampling(4), session), *requests, return_exceptions=True)

    with broken(model):
        failures = run(gather())
    assert len(failures) == 5
    for failure in failures:
        assert isinstance(failure, EngineError) and "out of memory" in str(failure)
        assert isinstance(failure.__cause__, RuntimeError)
    assert engine._sessions == {session}
    assert talk(engine, session, ids, 2) == talk(engine, None, ids, 2)
    session.close()
    if packed:
        assert not engine._runner._slots  # type: ignore[union-attr]


def test_a_cancelled_request_is_forgotten_and_those_behind_it_are_served() -> None:
    async def scene(engine: TransformersEngine) -> Completion:
        first = asyncio.ensure_future(engine.generate(PROMPT, Sampling(400)))
        waiting = asyncio.ensure_future(engine.generate(PROMPT, Sampling(4, seed=1)))
        last = asyncio.ensure_future(engine.generate(PROMPT, Sampling(4, seed=2)))
        for _ in range(6):
            await asyncio.sleep(0)
        first.cancel()
        waiting.cancel()
        done = await asyncio.wait_for(last, 20)
        assert first.cancelled() and waiting.cancelled()
        return done

    engine = make(max_batch=1)
    assert run(scene(engine)).token_ids == ask(make(), PROMPT, max_tokens=4, seed=2).token_ids
    assert not engine._sessions and engine.generated_tokens < 20


@pytest.mark.parametrize("packed", [True, False])
def test_a_session_can_be_used_again_after_a_cancelled_request(packed: bool) -> None:
    engine = make(packed=packed)
    session = engine.session()
    ids = talk(engine, session, PROMPT, 1)

    async def cancelled() -> None:
        task = asyncio.ensure_future(engine.generate(ids, Sampling(400), session))
        for _ in range(6):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, engine.generate([3], Sampling(1)), return_exceptions=True)

    run(cancelled())
    assert talk(engine, session, ids, 2) == talk(engine, None, ids, 2)


# -- weights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_sync_brings_new_weights_and_drops_what_the_old_ones_made(packed: bool) -> None:
    engine = make(packed=packed)
    session = engine.session()
    ids = talk(engine, session, PROMPT, 2)
    other = small_llama(seed=1)
    run(engine.sync(other.state_dict().items()))
    done = ask(engine, ids, session)
    assert done.engine_version == engine.version == 1
    assert done.token_ids == ask(make(other, packed=packed), ids).token_ids
    assert_numbers_are_the_models(other, ids, done)


@pytest.mark.parametrize("packed", [True, False])
def test_what_has_begun_is_finished_with_the_old_weights_and_what_comes_meanwhile_has_the_new_ones(
    packed: bool,
) -> None:
    engine, other = make(packed=packed), small_llama(seed=1)

    async def scene() -> list[Completion]:
        begun = asyncio.ensure_future(engine.generate(PROMPT, Sampling(12)))
        while engine.generated_tokens < 5:
            await asyncio.sleep(0)
        syncing = asyncio.ensure_future(engine.sync(other.state_dict().items()))
        await asyncio.sleep(0)
        asked_meanwhile = asyncio.ensure_future(engine.generate(PROMPT, Sampling(12)))
        await syncing
        assert begun.done() and not asked_meanwhile.done()
        return [await begun, await asked_meanwhile]

    before, after = run(scene())
    assert [before.engine_version, after.engine_version] == [0, 1]
    assert_numbers_are_the_models(small_llama(), PROMPT, before)
    assert_numbers_are_the_models(other, PROMPT, after)


def test_weights_that_do_not_fit_leave_those_who_wait_served() -> None:
    engine = make()

    async def scene() -> Completion:
        begun = asyncio.ensure_future(engine.generate(PROMPT, Sampling(4)))
        while not engine.generated_tokens:
            await asyncio.sleep(0)
        syncing = asyncio.ensure_future(engine.sync([("no such weight", torch.zeros(1))]))
        await asyncio.sleep(0)
        waiting = asyncio.ensure_future(engine.generate(PROMPT, Sampling(4)))
        with pytest.raises(EngineError, match="no such weight"):
            await syncing
        assert await begun
        return await waiting

    assert run(scene()).engine_version == engine.version == 0


def test_sync_without_a_state_means_that_the_weights_are_shared() -> None:
    model = small_llama()
    engine = make(model)
    session = engine.session()
    ids = talk(engine, session, PROMPT, 1)
    model.load_state_dict(small_llama(seed=1).state_dict())
    run(engine.sync())
    assert_numbers_are_the_models(model, ids, ask(engine, ids, session))


def test_scores_are_the_log_probabilities_of_the_tokens_after_the_first() -> None:
    engine = make()
    done = ask(engine, PROMPT)
    scores = run(engine.score([*PROMPT, *done.token_ids]))
    assert len(scores) == len(PROMPT) - 1 + len(done.token_ids)
    torch.testing.assert_close(scores[len(PROMPT) - 1 :], done.logprobs, atol=1e-4, rtol=1e-4)


def test_scores_need_a_sequence_that_fits() -> None:
    with pytest.raises(EngineError, match="exceed the model's context"):
        run(make().score([1] * 1000))


def test_an_engine_that_cannot_score_says_so() -> None:
    assert run(ScriptedEngine(["a"]).score([1, 2])) is None
