"""New weights for vLLM in this process, and its sleep. Runs in the Python that has it: see test_vllm.py."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from vllm_shared import (
    PROMPT,
    TOKENIZER,
    TOLERANCE,
    ask,
    assert_logprobs,
    model_of,
    moved,
    run,
)

from agent_gym.engines.base import Completion, Sampling
from agent_gym.engines.fingerprint import model_sums, same
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.engines.vllm import VllmEngine
from agent_gym.engines.vllm_building import held_sums
from agent_gym.errors import EngineError
from agent_gym.trainers.scorer import TokenScorer
from agent_gym.trainers.syncing import check_arrival, probe_ids, probe_logprobs
from agent_gym.trainers.weights import named_weights

# -- weights -----------------------------------------------------------------------------------------------------------


def test_new_weights_change_the_answers_to_the_trainers(engine: VllmEngine, model: Any) -> None:
    other, version = model_of(1), engine.version
    before = ask(engine, seed=1)
    run(engine.sync(other.state_dict().items()))
    after = ask(engine, seed=1)
    assert (before.engine_version, after.engine_version) == (version, version + 1)
    assert_logprobs(other, PROMPT, after)
    difference = torch.tensor(run(engine.score(PROMPT))) - torch.tensor(run(TransformersEngine(model).score(PROMPT)))
    assert difference.abs().mean() > 10 * TOLERANCE


def test_linear_layers_keep_their_weights_on_a_cpu(engine: VllmEngine, model: Any) -> None:
    """vLLM would pack them and empty the parameters; what then loads weights directly changes nothing."""
    inner = engine._thread.call(lambda inner: inner.apply_model(lambda each: dict(each.named_parameters()))).result()
    weight = inner[0]["model.layers.0.self_attn.o_proj.weight"]
    torch.testing.assert_close(weight, model.model.layers[0].self_attn.o_proj.weight, rtol=0, atol=0)


def test_weights_that_vllm_takes_and_does_not_use_are_found_out(
    engine: VllmEngine, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_of_model = type(engine._thread.call(lambda inner: inner.apply_model(lambda each: each)).result()[0])

    def ignore(inner: Any, weights: Any) -> set[str]:
        list(weights)
        return {name for name, _ in inner.named_parameters()}

    monkeypatch.setattr(class_of_model, "load_weights", ignore)
    version, scores = engine.version, run(engine.score(PROMPT))
    nearly = moved(model, 1e-6)
    with pytest.raises(EngineError, match="VllmEngine has taken new weights and does not hold them"):
        run(engine.sync(nearly.state_dict().items()))
    assert engine.version == version
    with pytest.raises(EngineError, match="no weights"):
        ask(engine)
    monkeypatch.setattr(engine._arrival, "check", lambda given, held: None)
    other, ids = model_of(1), probe_ids(len(TOKENIZER))
    run(engine.sync(other.state_dict().items()))
    assert run(engine.score(PROMPT)) == scores
    monkeypatch.undo()
    with pytest.raises(EngineError, match="VllmEngine has taken new weights and does not use them"):
        run(check_arrival(engine, ids, probe_logprobs(TokenScorer(other), ids), tolerance=5e-3))
    run(check_arrival(engine, ids, probe_logprobs(TokenScorer(model), ids), tolerance=5e-3))


def test_the_smallest_update_arrives(engine: VllmEngine, model: Any) -> None:
    for relative in (1e-6, -1e-6):
        nearly = moved(model, relative)
        run(engine.sync(named_weights(nearly)))
        assert same(engine._thread.call(lambda inner: inner.collective_rpc(held_sums)).result()[0], model_sums(nearly))


@pytest.mark.parametrize("lacking", ["model.layers.1.", "model.layers.1.self_attn.k_proj", "model.norm"])
def test_weights_that_are_missing_are_named_and_nothing_is_sampled(
    engine: VllmEngine, model: Any, lacking: str
) -> None:
    version = engine.version
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(lacking)}
    with pytest.raises(EngineError, match=r"the new weights lack|The new weights are not all: 1 are missing"):
        run(engine.sync(weights.items()))
    assert engine.version == version
    with pytest.raises(EngineError, match="no weights"):
        ask(engine)


def test_what_vllm_itself_says_was_not_loaded_is_missing_too(
    engine: VllmEngine, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody has said which weights there should be: an engine made of a folder."""
    monkeypatch.setattr(engine, "_expected", [])
    weights = {name: tensor for name, tensor in model.state_dict().items() if "layers.1.mlp" not in name}
    with pytest.raises(EngineError, match=r"lack 2 of the model's parameters, 'model\.layers\.1\.mlp\."):
        run(engine.sync(weights.items()))


def test_new_weights_forget_the_prefixes_of_the_old_ones(engine: VllmEngine, model: Any) -> None:
    ask(engine)
    cached = engine.cached_tokens
    run(engine.sync(model_of(2).state_dict().items()))
    ask(engine)
    assert engine.cached_tokens == cached
    ask(engine)
    assert engine.cached_tokens > cached


def test_weights_are_taken_one_by_one(engine: VllmEngine, model: Any) -> None:
    """Not until the last is handed out has the first been asked for again: none is kept back."""
    alive = 0
    most = 0

    class Handed:
        def __init__(self) -> None:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def weights() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in named_weights(model):
            own = tensor.clone()
            own.handed = Handed()
            yield name, own
            del own

    run(engine.sync(weights()))
    # A layer that vLLM stacks out of three is held until it is whole.
    assert most <= 6 < len(model.state_dict())


def test_requests_in_flight_end_with_the_old_weights_and_later_ones_have_the_new(
    engine: VllmEngine, model: Any
) -> None:
    other, version = model_of(1), engine.version

    async def scene() -> tuple[Completion, Completion]:
        early = asyncio.ensure_future(engine.generate(PROMPT, Sampling(40, seed=1)))
        await asyncio.sleep(0.01)
        syncing = asyncio.ensure_future(engine.sync(other.state_dict().items()))
        await asyncio.sleep(0)
        late = asyncio.ensure_future(engine.generate(PROMPT, Sampling(12, seed=1)))
        await syncing
        return await early, await late

    early, late = run(scene())
    assert (early.engine_version, late.engine_version) == (version, version + 1)
    assert_logprobs(model, PROMPT, early)
    assert_logprobs(other, PROMPT, late)


def test_sleeping_does_nothing_on_a_cpu(engine: VllmEngine, model: Any) -> None:
    before = ask(engine, seed=4)
    run(engine.sleep())
    run(engine.wake())
    assert ask(engine, seed=4).token_ids == before.token_ids


def test_where_vllm_can_sleep_it_drops_the_weights_and_takes_memory_back_in_two_parts(
    engine: VllmEngine, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked of vLLM on a GPU, in order; here it is only written down."""
    asked: list[Any] = []

    def stand_in(inner: Any) -> None:
        monkeypatch.setattr(inner, "sleep", lambda level: asked.append(f"sleep {level}"))
        monkeypatch.setattr(inner, "wake_up", asked.append)

    engine._thread.call(stand_in).result()
    monkeypatch.setattr(engine, "_sleeps", True)
    run(engine.sleep())
    run(engine.sleep())
    assert asked == ["sleep 2"]
    with pytest.raises(EngineError, match="sleeps"):
        ask(engine)
    run(engine.sync(model.state_dict().items()))
    assert asked[1:] == [["weights"]]
    with pytest.raises(EngineError, match="sleeps"):
        ask(engine)
    run(engine.wake())
    run(engine.wake())
    assert asked[2:] == [["kv_cache"]]
    assert_logprobs(model, PROMPT, ask(engine))
    run(engine.sleep())
    run(engine.wake())
    assert asked[3:] == ["sleep 2", ["kv_cache", "weights"]]
    with pytest.raises(EngineError, match="no weights yet"):
        ask(engine)
