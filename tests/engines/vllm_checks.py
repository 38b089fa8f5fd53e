"""What holds of vLLM in this process. Runs in the Python that has it: see test_vllm.py."""

import asyncio
import copy
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from agent_gym.config import EvalConfig, TrainConfig
from agent_gym.config_files import build
from agent_gym.engines import vllm_building
from agent_gym.engines.base import Completion, Sampling
from agent_gym.engines.fingerprint import model_sums, same
from agent_gym.engines.tiny import TinySize, make_model, train_tokenizer
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.engines.vllm import VllmEngine
from agent_gym.engines.vllm_building import held_sums
from agent_gym.errors import ChatTemplateError, ConfigError, EngineError
from agent_gym.evaluation import vllm_model
from agent_gym.evaluation.runner import evaluate
from agent_gym.store.run import RunFolder
from agent_gym.trainers.scorer import TokenScorer
from agent_gym.trainers.syncing import check_arrival, probe_ids, probe_logprobs
from agent_gym.trainers.trainer import train
from agent_gym.trainers.weights import named_weights

SIZE = TinySize(hidden=64, feed_forward=128, layers=2, heads=2, context=1024)
TEXTS = ["go to the kitchen", "take the apple from the fridge", "you see a door, a lamp and 2 cups"] * 4
TOKENIZER = train_tokenizer(TEXTS, vocabulary=400)
BLOCK = 32
PROMPT = [(7 * place + 5) % 300 + 10 for place in range(70)]
TOLERANCE = 2e-3
"""Of log-probabilities in float32, between vLLM and transformers."""


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


def model_of(seed: int) -> Any:
    return make_model(TOKENIZER, SIZE, seed=seed).eval()


def moved(model: Any, relative: float) -> Any:
    """Return a copy of a model whose weights are all larger by a share of themselves."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1 + relative)
    return other


@pytest.fixture(scope="module")
def model() -> Any:
    return model_of(0)


@pytest.fixture(scope="module")
def shared(model: Any) -> Iterator[VllmEngine]:
    """One engine for all: to start one takes seconds."""
    before = torch.get_rng_state()
    engine = VllmEngine.twin(model, TOKENIZER, max_batch=16, block_size=BLOCK, cache_gib=0.25)
    assert torch.equal(torch.get_rng_state(), before), "starting vLLM moved the random numbers of the process"
    with pytest.raises(EngineError, match="no weights yet"):
        run(engine.generate(PROMPT, Sampling()))
    yield engine
    run(engine.aclose())


@pytest.fixture
def engine(shared: VllmEngine, model: Any) -> VllmEngine:
    run(shared.sync(model.state_dict().items()))
    return shared


def ask(engine: Any, prompt: list[int] = PROMPT, **values: Any) -> Completion:
    completion: Completion = run(engine.generate(prompt, Sampling(**{"max_tokens": 12, **values})))
    return completion


async def ask_all(engine: VllmEngine, prompts: list[list[int]], samplings: list[Sampling]) -> list[Completion]:
    return list(await asyncio.gather(*map(engine.generate, prompts, samplings)))


@torch.no_grad()
def expected(model: Any, prompt: list[int], done: Completion, temperature: float = 1.0) -> tuple[Any, Any]:
    """Return log-probabilities and entropies of a completion's tokens from one plain forward pass."""
    ids = torch.tensor([prompt + done.token_ids])
    logprobs = (model(input_ids=ids).logits[0, len(prompt) - 1 : -1] / temperature).log_softmax(-1)
    return logprobs.gather(1, ids[0, len(prompt) :, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)


def assert_logprobs(model: Any, prompt: list[int], done: Completion, temperature: float = 1.0) -> None:
    logprobs, _ = expected(model, prompt, done, temperature)
    torch.testing.assert_close(torch.tensor(done.logprobs), logprobs, atol=TOLERANCE, rtol=0)


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


# -- failures, and the end ---------------------------------------------------------------------------------------------


def test_what_vllm_meets_is_told_to_those_who_wait_and_later_ones_are_served(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        monkeypatch.undo()
        raise RuntimeError("out of memory on device 3")

    run(asyncio.wait_for(_patched(engine, monkeypatch, fail), 60))
    assert len(ask(engine).token_ids) == 12


async def _patched(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch, fail: Any) -> None:
    await asyncio.wrap_future(engine._thread.call(lambda inner: monkeypatch.setattr(inner, "step", fail)))
    answers = await asyncio.gather(
        *(engine.generate(PROMPT, Sampling(8, seed=seed)) for seed in range(3)), return_exceptions=True
    )
    failed = [answer for answer in answers if isinstance(answer, EngineError)]
    assert failed
    assert all("vLLM failed: out of memory on device 3" in str(error) for error in failed)


def test_log_probabilities_that_are_no_numbers_are_an_error(engine: VllmEngine, model: Any) -> None:
    broken = {name: torch.full_like(tensor, torch.nan) for name, tensor in model.state_dict().items()}
    run(engine.sync(broken.items()))
    with pytest.raises(EngineError, match="no numbers"):
        ask(engine)
    with pytest.raises(EngineError, match="no numbers"):
        run(engine.score(PROMPT))


@pytest.mark.parametrize("wrong", [("nonsense.weight", torch.zeros(3)), ("model.norm.weight", torch.zeros(3))])
def test_weights_that_do_not_fit_are_refused_and_nothing_is_sampled_with_them(
    shared: VllmEngine, wrong: tuple[str, torch.Tensor]
) -> None:
    """Must come after those that use the shared engine's weights."""
    version = shared.version
    with pytest.raises(EngineError, match="do not fit"):
        run(shared.sync([wrong]))
    assert shared.version == version
    with pytest.raises(EngineError, match="no weights"):
        ask(shared)
    with pytest.raises(EngineError, match="hand them to sync"):
        run(shared.sync())


def test_closing_ends_the_thread_and_frees_the_process_groups(shared: VllmEngine) -> None:
    """Must stay the last that uses the shared engine."""
    run(shared.aclose())
    run(shared.aclose())
    assert not [each for each in threading.enumerate() if each.name == "vllm"]
    assert not torch.distributed.is_initialized()
    with pytest.raises(EngineError, match="closed"):
        run(shared.generate(PROMPT, Sampling()))


# -- engines of their own ----------------------------------------------------------------------------------------------


def test_a_model_that_vllm_cannot_run_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=f"vLLM cannot run the model {tmp_path / 'none'}"):
        VllmEngine(str(tmp_path / "none"))
    assert not torch.distributed.is_initialized()
    assert not [each for each in threading.enumerate() if each.name == "vllm"]
    assert vllm_building.on_cpu() or torch.cuda.is_available()


# -- training and evaluation -------------------------------------------------------------------------------------------


def test_training_samples_with_vllm_and_hands_it_the_weights_after_each_step(tmp_path: Path) -> None:
    config = build(
        TrainConfig,
        {
            "env": {"id": "alfworld", "options": {"max_turns": 3}},
            "model": {"hidden": 64, "heads": 2, "layers": 2, "feed_forward": 128},
            "engine": {"kind": "vllm", "cache_gib": 0.25},
            "rollout": {"tasks": 2, "max_tokens": 6},
            "algorithm": {"name": "grpo", "options": {"group_size": 3}},
            "update": {"learning_rate": 1e-3},
            "measure": {"tasks": 2},
            "steps": 3,
        },
    )
    result = train(config, tmp_path / "run")
    steps = [record for record in result.metrics if record["phase"] == "train"]
    assert [record["step"] for record in steps] == [1, 2, 3]
    assert all(record["mismatch_max"] < TOLERANCE for record in steps)
    with RunFolder.open(tmp_path / "run").trajectories() as store:
        versions = {turn.engine_version for each in store.select() for turn in each.turns}
    assert versions == {0, 1, 2, 3}
    assert result.after is not None
    assert not [each for each in threading.enumerate() if each.name == "vllm"]


def test_evaluation_plays_a_folder_with_vllm(tmp_path: Path, model: Any) -> None:
    model.save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    values = {"model": f"vllm:{tmp_path / 'model'}", "env": {"id": "small_envs:CountEnv"}, "split": "train"}
    config = build(EvalConfig, {**values, "tasks": 2, "rollout": {"max_tokens": 4}, "vllm": {"cache_gib": 0.25}})
    evaluate(config, tmp_path / "run")
    with RunFolder.open(tmp_path / "run").trajectories() as store:
        turns = [turn for each in store.select() for turn in each.turns]
    assert len(turns) >= 2
    assert all(0 < turn.generated_tokens <= 4 for turn in turns)
    with pytest.raises(ConfigError, match=r"Unknown argument vllm\.memory_shares: did you mean 'memory_share'"):
        evaluate(config.model_copy(update={"vllm": {"memory_shares": 0.5}}), tmp_path / "other")


def test_a_model_that_cannot_be_played_with_leaves_no_vllm_behind(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        closed = False

        async def sync(self, weights: Any) -> None:
            raise EngineError("The new weights are not all.")

        async def aclose(self) -> None:
            self.closed = True

    refusing = Refusing()
    monkeypatch.setattr(vllm_model, "is_adapter", lambda folder: True)
    monkeypatch.setattr(vllm_model, "load_model", lambda path: (model, TOKENIZER))
    monkeypatch.setattr(VllmEngine, "twin", lambda *arguments, **values: refusing)
    config = build(EvalConfig, {"model": f"vllm:{tmp_path}", "env": {"id": "small_envs:CountEnv"}})
    with pytest.raises(EngineError, match="not all"):
        vllm_model.VllmModel(config)
    assert refusing.closed
    mute = copy.deepcopy(TOKENIZER)
    mute.chat_template = None
    monkeypatch.setattr(vllm_model, "load_model", lambda path: (model, mute))
    monkeypatch.setattr(VllmEngine, "twin", lambda *arguments, **values: pytest.fail("vLLM was started"))
    with pytest.raises(ChatTemplateError):
        vllm_model.VllmModel(config)
