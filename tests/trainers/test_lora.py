"""LoRA: adapters alone are trained, kept and loaded; engine, trainer and merged model agree."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from base_rows import groups
from helpers import TEXTS, run, small_gpt2, small_llama, trajectory
from safetensors.torch import load_file

from agent_gym.config import TrainConfig
from agent_gym.config_files import build
from agent_gym.engines.adapters import (
    CONFIG,
    StartingAdapter,
    adapter_config,
    adapter_parameters,
    adapter_weights,
    add_adapters,
    write_adapter,
)
from agent_gym.engines.base import Sampling
from agent_gym.engines.loading import load_model
from agent_gym.engines.runners import SlotRunner
from agent_gym.engines.tiny import train_tokenizer
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.errors import ConfigError, EngineError
from agent_gym.sections import LoraSection
from agent_gym.trainers.algorithm import Progress
from agent_gym.trainers.batch import Batch, make_batch
from agent_gym.trainers.critic import ValueModel
from agent_gym.trainers.grpo import grpo
from agent_gym.trainers.learner import Learner
from agent_gym.trainers.optimizers import make_optimizer
from agent_gym.trainers.policy import make_policy, recompute_activations
from agent_gym.trainers.processes import Processes
from agent_gym.trainers.reference import Reference
from agent_gym.trainers.scorer import TokenScorer
from agent_gym.trainers.trainer import train
from agent_gym.trainers.update import UpdateSettings
from agent_gym.trainers.warmstart import CloneSettings, clone
from agent_gym.trainers.weights import named_weights


def adapted(*, moved: bool = True, base: str | None = None, **values: Any) -> Any:
    """Return a small model with adapters, which do something where they are `moved`."""
    model = small_llama()
    add_adapters(model, LoraSection(rank=4, **values), base=base, seed=3)
    if moved:
        move(model)
    return model.eval()


def move(model: Any, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter_parameters(model).values():
        parameter.data += torch.randn(parameter.shape, generator=generator) * 0.2


def some_batch() -> Batch:
    rows = [trajectory(5, 4, seed=seed) for seed in range(3)]
    return make_batch(rows, [0.0] * 3, [0, 0, 0])


IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def test_new_adapters_change_nothing_and_follow_from_the_seed() -> None:
    one, two = adapted(moved=False), adapted(moved=False)
    assert torch.equal(one(input_ids=IDS).logits, small_llama().eval()(input_ids=IDS).logits)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(adapter_weights(one), adapter_weights(two), strict=True))
    assert any(value.abs().max() > 0 for _, value in adapter_weights(one))


def test_the_optimiser_holds_the_adapters_alone() -> None:
    model = adapted()
    expected = {id(parameter) for parameter in adapter_parameters(model).values()}
    for name in ("adamw", "muon"):
        optimizer = make_optimizer(name, model, learning_rate=1e-3)  # type: ignore[arg-type]
        assert {id(p) for group in optimizer.param_groups for p in group["params"]} == expected


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_cloning_trains_the_adapters_and_leaves_the_base(optimizer: Any) -> None:
    model = adapted(moved=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows, losses = [trajectory(5, 6, seed=seed) for seed in range(4)], []
    settings = CloneSettings(epochs=30, optimizer=optimizer, learning_rate=2e-2, warmup_steps=1)
    clone(model, rows, settings, seed=0, on_step=lambda step, total, loss: losses.append(loss))
    assert losses[-1] < losses[0] - 0.5
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(adapter_parameters(model))


def test_the_packed_engine_samples_from_the_adapted_model() -> None:
    model = adapted()
    engine = TransformersEngine(model, max_batch=4, packed=True, stop_token_ids=[])
    assert isinstance(engine._runner, SlotRunner)
    completion = run(engine.generate([3, 1, 4, 1, 5], Sampling(max_tokens=6)))
    ids = torch.tensor([[3, 1, 4, 1, 5, *completion.token_ids]])
    mask = torch.tensor([[0.0] * 5 + [1.0] * 6])
    scored = TokenScorer(model)(ids, mask)[0][0, 5:]
    torch.testing.assert_close(scored, torch.tensor(completion.logprobs), atol=1e-5, rtol=1e-5)
    bare = TokenScorer(small_llama())(ids, mask)[0][0, 5:]
    assert (bare - scored).abs().max() > 1e-2


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small model."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = train_tokenizer(TEXTS, vocabulary=300)
    small_llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tuned(base: Path, **model: Any) -> TrainConfig:
    return build(TrainConfig, {"model": {"path": str(base), "lora": {"rank": 4}, **model}})


def saved(model: Any, tokenizer: Any, folder: Path) -> Path:
    folder.mkdir(parents=True)
    write_adapter(folder, adapter_weights(model), adapter_config(model))
    tokenizer.save_pretrained(folder)
    return folder


def test_a_checkpoint_is_an_adapter_that_loads_with_its_base(base: Path, tmp_path: Path) -> None:
    model, tokenizer = make_policy(tuned(base))
    move(model)
    folder = saved(model, tokenizer, tmp_path / "step-1")
    assert (folder / CONFIG).is_file() and not list(folder.glob("model*.safetensors"))
    loaded, _ = load_model(str(folder))
    assert torch.equal(loaded(input_ids=IDS).logits, model.eval()(input_ids=IDS).logits)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    resumed, _ = make_policy(tuned(base), folder)
    assert {n for n, p in resumed.named_parameters() if p.requires_grad} == set(adapter_parameters(resumed))


def test_peft_itself_loads_what_is_written(base: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    model, tokenizer = make_policy(tuned(base))
    move(model)
    folder = saved(model, tokenizer, tmp_path / "step-1")
    theirs = PeftModel.from_pretrained(load_model(str(base))[0], str(folder)).eval()
    assert torch.equal(theirs(input_ids=IDS).logits, model.eval()(input_ids=IDS).logits)


def test_what_save_pretrained_writes_is_the_same_adapter(base: Path, tmp_path: Path) -> None:
    model, tokenizer = make_policy(tuned(base))
    move(model)
    model.save_pretrained(tmp_path / "theirs")
    tokenizer.save_pretrained(tmp_path / "theirs")
    loaded, _ = load_model(str(tmp_path / "theirs"))
    assert torch.equal(loaded(input_ids=IDS).logits, model.eval()(input_ids=IDS).logits)


def test_an_adapter_is_not_trained_as_if_it_were_a_model(base: Path, tmp_path: Path) -> None:
    folder = saved(*make_policy(tuned(base)), tmp_path / "adapter")
    with pytest.raises(ConfigError, match="agent-gym merge"):
        make_policy(build(TrainConfig, {"model": {"path": str(folder)}}))


def test_an_adapter_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    folder = saved(*make_policy(tuned(base)), tmp_path / "adapter")
    other = tmp_path / "other"
    small_llama(300, layers=1).save_pretrained(other)
    text = (folder / CONFIG).read_text().replace(str(base), str(other))
    (folder / CONFIG).write_text(text)
    with pytest.raises(EngineError, match="does not fit"):
        load_model(str(folder))


def test_layers_that_do_not_exist_are_refused() -> None:
    with pytest.raises(EngineError, match="target_modules"):
        adapted(target_modules=["no_such_layer"])


def test_adapters_are_float32_in_a_model_of_bfloat16(base: Path) -> None:
    model, _ = make_policy(tuned(base, dtype="bfloat16"))
    types = {".lora_" in name: parameter.dtype for name, parameter in model.named_parameters()}
    assert types == {True: torch.float32, False: torch.bfloat16}
    assert model(input_ids=IDS).logits.dtype == torch.bfloat16


def test_the_reference_is_the_model_as_it_began_and_leaves_it_as_it_is(tmp_path: Path) -> None:
    model, batch = adapted(moved=False), some_batch()
    write_adapter(tmp_path, adapter_weights(model), adapter_config(model))
    settings: Any = {"temperature": 1.0, "micro_batch_tokens": 64}
    expected = Reference(small_llama(), **settings).logprobs(batch)
    move(model)
    present = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    reference = Reference(StartingAdapter(model, tmp_path), **settings)
    assert torch.equal(reference.logprobs(batch), expected)
    assert all(torch.equal(value, present[name]) for name, value in model.state_dict().items())
    assert model.training and all(p.requires_grad for p in adapter_parameters(model).values())
    assert reference.model is model


def test_a_critic_shares_what_is_frozen_and_trains_adapters_of_its_own() -> None:
    model = adapted()
    value = ValueModel(model)
    own, theirs = dict(value.backbone.named_parameters()), dict(model.base_model.named_parameters())
    for name, parameter in own.items():
        assert (parameter is theirs[name]) is (".lora_" not in name)
    ids, mask = IDS, torch.tensor([[0.0] * 4 + [1.0] * 4])
    torch.nn.init.ones_(value.head.weight)
    value(ids, mask).sum().backward()
    assert all(p.grad is None for p in model.parameters())


def test_a_model_that_stores_its_weights_transposed_can_be_adapted() -> None:
    model = small_gpt2(dropout=0.0)
    add_adapters(model, LoraSection(rank=2), base=None, seed=0)
    assert adapter_parameters(model)


# -- whole runs --------------------------------------------------------------------------------------------------------

RUN: dict[str, Any] = {
    "env": {"id": "alfworld", "options": {"size": "tiny", "max_turns": 6}},
    "model": {
        **{"hidden": 16, "layers": 1, "heads": 2, "feed_forward": 32, "vocabulary": 600},
        # What was cut off goes on bit for bit with dropout, too.
        "lora": {"rank": 4, "dropout": 0.2},
    },
    "rollout": {"tasks": 2, "concurrency": 8, "max_tokens": 6},
    "algorithm": {"name": "grpo", "options": {"group_size": 2, "kl_coefficient": 0.1, "entropy_coefficient": 0.1}},
    "update": {"learning_rate": 1e-2},
    "measure": {"tasks": 0},
    "steps": 3,
    "checkpoint_every": 1,
    "keep_checkpoints": 9,
    "threads": 1,
}


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Return a run with LoRA on the tiny model, and its records."""
    folder = tmp_path_factory.mktemp("runs") / "lora"
    return folder, train(build(TrainConfig, RUN), folder).metrics


def test_a_run_trains_adapters_against_its_own_beginning(finished: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, records = finished
    distances = [record["kl_reference"] for record in records]
    assert abs(distances[0]) < 1e-7 and min(distances[1:]) > 1e-6
    assert sorted(path.name for path in (folder / "base").glob("*.safetensors")) == ["model.safetensors"]
    for step in range(4):
        found = (folder / f"checkpoints/step-{step}").glob("*.safetensors")
        assert [path.name for path in found] == ["adapter_model.safetensors"]
    first, last = (load_model(str(folder / f"checkpoints/step-{step}"))[0](input_ids=IDS).logits for step in (0, 3))
    assert torch.equal(first, load_model(str(folder / "base"))[0](input_ids=IDS).logits)
    assert not torch.allclose(first, last, atol=1e-4)


def test_a_run_that_was_cut_off_goes_on_bit_for_bit(
    finished: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    folder, records = finished
    shutil.copytree(folder, tmp_path / "run")
    for step in (2, 3):
        shutil.rmtree(tmp_path / f"run/checkpoints/step-{step}")
    resumed = train(build(TrainConfig, RUN), tmp_path / "run", resume=True).metrics
    assert without_times(resumed) == without_times(records)
    one, other = (
        load_file(path / "checkpoints/step-3/adapter_model.safetensors") for path in (folder, tmp_path / "run")
    )
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_that_was_moved_takes_its_base_along(finished: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    folder, _ = finished
    before = load_model(str(folder / "checkpoints/step-3"))[0](input_ids=IDS).logits
    shutil.copytree(folder, tmp_path / "moved")
    config = tmp_path / "moved/checkpoints/step-3" / CONFIG
    config.write_text(config.read_text().replace(str(folder), "/gone"))
    after = load_model(str(config.parent))[0](input_ids=IDS).logits
    assert torch.equal(before, after)


@pytest.mark.parametrize(
    "algorithm",
    [{"name": "ppo"}, {"name": "grpo", "options": {"kl_coefficient": 0.1}}],
    ids=lambda values: values["name"],
)
def test_adapters_that_would_be_spread_twice_are_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: dict[str, Any]
) -> None:
    monkeypatch.setattr(Processes, "shards", lambda self, asked: asked)
    values = {**RUN, "algorithm": algorithm, "distributed": {"shard": True}}
    with pytest.raises(ConfigError, match="cannot be spread over processes twice"):
        train(build(TrainConfig, values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("stabilized", "scale"), [(False, 8 / 4), (True, 8 / 2)])
def test_what_an_adapter_adds_is_scaled_by_alpha_and_the_rank_or_its_root(stabilized: bool, scale: float) -> None:
    model, plain = adapted(alpha=8, rank_stabilized=stabilized, target_modules=["q_proj"]), small_llama()
    merged, before = dict(named_weights(model)), dict(named_weights(plain))
    pairs = dict(adapter_weights(model))
    for key, lora_a in pairs.items():
        if ".lora_A." in key:
            name = key.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
            added = scale * pairs[key.replace("lora_A", "lora_B")] @ lora_a
            torch.testing.assert_close(merged[name], before[name] + added)


def test_dropout_acts_in_updates_alone() -> None:
    model, without = adapted(dropout=0.5), adapted()
    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS).logits, without(input_ids=IDS).logits)
        model.train()
        torch.manual_seed(0)
        one, two = model(input_ids=IDS).logits, model(input_ids=IDS).logits
    assert not torch.allclose(one, two, atol=1e-3)


def test_what_dropout_draws_follows_from_seed_and_step_and_is_drawn_from_no_generator_of_others() -> None:
    def learned(step: int, *, seed: int = 0, checkpointing: bool = False) -> list[torch.Tensor]:
        model = adapted(dropout=0.5)
        if checkpointing:
            recompute_activations(model)
        before = torch.get_rng_state()
        Learner(model, grpo(), UpdateSettings(learning_rate=1e-2), seed=seed).learn(groups(), Progress(step, 10))
        assert torch.equal(before, torch.get_rng_state())
        torch.rand(1)
        return [value.detach() for _, value in adapter_weights(model)]

    first = learned(1)
    for again in (learned(1), learned(1, checkpointing=True)):
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    for different in (learned(2), learned(1, seed=1)):
        assert any(not torch.allclose(one, other) for one, other in zip(first, different, strict=True))


def test_gradient_checkpointing_and_bfloat16_train_and_resume(tmp_path: Path) -> None:
    """The engine samples from the same model between updates."""
    model = {**RUN["model"], "lora": None, "dtype": "bfloat16", "gradient_checkpointing": True}
    config = build(TrainConfig, {**RUN, "model": model, "update": {"learning_rate": 1e-4}})
    records = train(config, tmp_path / "run").metrics
    assert all(record["grad_norm"] > 0 for record in records)
    for step in (2, 3):
        shutil.rmtree(tmp_path / f"run/checkpoints/step-{step}")
    again = train(config, tmp_path / "run", resume=True).metrics
    assert without_times(again) == without_times(records)
