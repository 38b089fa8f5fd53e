"""Log-probabilities and entropies of given tokens: the plain computation, in whatever way they are computed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import (
    SMALL,
    TEXTS,
    CountEnv,
    run,
    seeded,
    small_gpt2,
    small_llama,
    small_mamba,
    small_mistral,
    small_qwen3,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from agent_gym.engines.base import Sampling
from agent_gym.engines.tiny import TinySize, make_model, train_tokenizer
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.errors import TrainingError
from agent_gym.rollout.chat import TemplateChat
from agent_gym.rollout.episode import Episode, EpisodeSettings
from agent_gym.trainers import scorer as scorer_module
from agent_gym.trainers.scorer import TokenScorer
from agent_gym.trainers.shared_prefix import unique_tokens
from agent_gym.trajectory import Trajectory


def small_scaled() -> Any:
    """A model whose logits are not those of its output layer alone (Gemma2 caps them)."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        **SMALL,
        head_dim=8,
        initializer_range=0.5,
        final_logit_softcapping=2.0,
    )
    return seeded(Gemma2ForCausalLM, config, 0)


def batch() -> tuple[Tensor, Tensor]:
    """Return ids (3, 12) and a mask with holes, padding and an empty row."""
    ids = torch.randint(2, 64, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(3, 12)
    mask[0, [1, 4, 5, 6, 11]] = 1
    mask[1, [3, 4]] = 1
    ids[1, 8:] = 0
    return ids, mask


def plain(model: Any, ids: Tensor, mask: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return what the scorer should, from all logits at once."""
    distribution = (model(input_ids=ids).logits[:, :-1] / temperature).log_softmax(-1)
    logprobs = distribution.gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
    entropies = -(distribution.exp() * distribution).sum(-1)
    pad = torch.nn.functional.pad
    return pad(logprobs, (1, 0)) * mask, pad(entropies, (1, 0)) * mask


def gradients(model: Any, loss: Tensor) -> list[Tensor]:
    return [g for g in torch.autograd.grad(loss, list(model.parameters()), allow_unused=True) if g is not None]


@pytest.mark.parametrize("make", [small_llama, small_qwen3, small_gpt2, small_scaled])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [None, 64 * 2])
def test_scores_and_gradients_equal_the_plain_computation(
    make: Callable[[], Any], temperature: float, chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chunk:
        monkeypatch.setattr(scorer_module, "CHUNK_ELEMENTS", chunk)
    model, (ids, mask) = make(), batch()
    scorer = TokenScorer(model, temperature=temperature)
    logprobs, entropies = scorer(ids, mask, True)
    expected = plain(model, ids, mask, temperature)
    torch.testing.assert_close(logprobs, expected[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(entropies, expected[1], atol=1e-5, rtol=1e-4)
    mine = gradients(model, (logprobs * 2 + entropies).sum())
    theirs = gradients(model, (expected[0] * 2 + expected[1]).sum())
    assert len(mine) == len(theirs)
    for one, two in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-3)


def test_models_that_split_are_told_from_those_that_do_not() -> None:
    for make, splits in ((small_llama, True), (small_qwen3, True), (small_gpt2, True), (small_scaled, False)):
        model = make().train()
        assert TokenScorer(model).splits is splits
        assert model.training


def test_only_masked_positions_reach_the_output_layer() -> None:
    model, (ids, mask) = small_llama(), batch()
    scorer, rows = TokenScorer(model), []
    model.lm_head.register_forward_pre_hook(lambda module, inputs: rows.append(inputs[0].shape[0]))
    scorer(ids, mask)
    assert rows == [7]


def test_the_entropy_has_no_gradient_unless_asked_for() -> None:
    model, (ids, mask) = small_llama(), batch()
    scorer = TokenScorer(model)
    logprobs, entropies = scorer(ids, mask)
    assert logprobs.requires_grad and not entropies.requires_grad
    with torch.no_grad():
        assert not scorer(ids, mask, True)[1].requires_grad


def test_rows_and_padding_beside_a_row_change_nothing() -> None:
    model, (ids, mask) = small_llama(), batch()
    scorer = TokenScorer(model)
    together = scorer(ids, mask)[0]
    for row, length in ((0, 12), (1, 8)):
        alone = scorer(ids[row : row + 1, :length], mask[row : row + 1, :length])[0]
        torch.testing.assert_close(alone[0], together[row, :length], atol=1e-5, rtol=1e-5)
    other = torch.where(torch.arange(12) >= 8, 9, ids[1]).unsqueeze(0)
    torch.testing.assert_close(scorer(other, mask[1:2])[0][0], together[1], atol=1e-6, rtol=1e-5)


def test_an_empty_mask_scores_nothing() -> None:
    ids, mask = batch()
    logprobs, entropies = TokenScorer(small_llama())(ids, mask * 0)
    assert (logprobs == 0).all() and (entropies == 0).all()


def test_a_temperature_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        TokenScorer(small_llama(), temperature=0.0)


def test_tied_and_untied_output_layers_split() -> None:
    for tied in (True, False):
        config = GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=64, tie_word_embeddings=tied)
        assert TokenScorer(seeded(GPT2LMHeadModel, config, 0)).splits


# -- shared prefixes ---------------------------------------------------------------------------------------------------


def small_cohere() -> Any:
    """A model whose logits are not those of its output layer alone, but scaled."""
    from transformers import CohereConfig, CohereForCausalLM

    config = CohereConfig(
        **SMALL,
        logit_scale=0.5,
        initializer_range=0.2,
    )
    return seeded(CohereForCausalLM, config, 0)


def branched(generator: torch.Generator, rows: int = 6, width: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids (B, T), mask and lengths of rows that leave one another, or end, somewhere."""
    ids = torch.randint(2, 64, (rows, width), generator=generator)
    for row in range(1, rows):
        parent, cut = (int(torch.randint(0, limit, (), generator=generator)) for limit in (row, width + 1))
        ids[row, :cut] = ids[parent, :cut]
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    mask = (torch.rand(rows, width, generator=generator) < 0.4) & (torch.arange(width) < lengths.unsqueeze(1))
    mask[:, 0] = False
    return ids, mask.float(), lengths


def assert_sharing_changes_nothing(
    model: Any, ids: Tensor, mask: Tensor, groups: Tensor | None = None, lengths: Tensor | None = None
) -> None:
    """Compare log-probabilities, entropies, a loss of both and the gradients of all parameters."""
    weights = torch.randn(2, *ids.shape, generator=torch.Generator().manual_seed(1)) / max(1.0, float(mask.sum()))
    found = []
    for shared in (False, True):
        scorer = TokenScorer(model, temperature=0.8, share_prefixes=shared)
        logprobs, entropies = scorer(ids, mask, True, groups, lengths)
        loss = (weights[0] * logprobs + weights[1] * entropies).sum()
        found.append((logprobs, entropies, loss, *torch.autograd.grad(loss, list(model.parameters()))))
    for unpacked, packed in zip(*found, strict=True):
        torch.testing.assert_close(packed, unpacked, atol=1e-5, rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.booleans())
def test_sharing_prefixes_changes_neither_scores_nor_gradients(seed: int, grouped: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    ids, mask, lengths = branched(generator)
    groups = torch.randint(0, 2, (len(ids),), generator=generator) if grouped else None
    assert_sharing_changes_nothing(small_llama(), ids, mask, groups, lengths)


@pytest.mark.parametrize("make", [small_qwen3, small_gpt2, small_mistral, small_cohere])
@pytest.mark.parametrize("chunk", [None, 64 * 2])
def test_models_of_many_kinds_can_share_prefixes(
    make: Callable[[], Any], chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chunk:
        monkeypatch.setattr(scorer_module, "CHUNK_ELEMENTS", chunk)
    ids, mask, lengths = branched(torch.Generator().manual_seed(3))
    assert_sharing_changes_nothing(make(), ids, mask, None, lengths)


def test_rows_of_every_relation_can_share_prefixes() -> None:
    model, (ids, mask) = small_llama(), batch()
    assert_sharing_changes_nothing(model, ids, mask)  # Nothing in common.
    assert_sharing_changes_nothing(model, ids[:1], mask[:1])  # One row.
    assert_sharing_changes_nothing(model, ids[[0, 0, 1, 0]], mask[[0, 0, 1, 2]])  # Again, and again with no mask.
    assert_sharing_changes_nothing(model, ids[[0, 1, 1]], mask[[0, 1, 0]])  # One text, other tokens asked for.
    assert_sharing_changes_nothing(model, ids[[0, 0]], mask[[0, 0]], torch.tensor([0, 1]))
    logprobs, entropies = TokenScorer(model, share_prefixes=True)(ids, mask * 0)
    assert (logprobs == 0).all() and (entropies == 0).all() and logprobs.requires_grad


def episodes() -> tuple[Any, list[Trajectory]]:
    """Return the tiny model, and two groups of an episode and its branches, at each of its turns one."""
    tokenizer = train_tokenizer(TEXTS, vocabulary=300)
    model = make_model(tokenizer, TinySize(hidden=32, layers=2, heads=2, feed_forward=64), seed=1)
    engine, chat = TransformersEngine(model, tokenizer), TemplateChat(tokenizer, system_prompt="Count.")

    async def play() -> list[Trajectory]:
        played = []
        for task in ("count 1", "count 2"):
            root = Episode(CountEnv(max_turns=4), engine, chat, EpisodeSettings(Sampling(max_tokens=5)), task, seed=3)
            await root.start()
            branches = [root]
            while await root.take_turn():
                branches.append(await root.fork())
                branches[-1].seed = len(branches)
            root.close()
            played += [root.trajectory, *[await branch.run() for branch in branches[1:]]]
        return played

    return model, run(play())


def test_branches_of_real_episodes_share_their_prefixes() -> None:
    model, played = episodes()
    width = max(len(trajectory.token_ids) for trajectory in played)
    ids, mask = (
        torch.tensor([row + [0] * (width - len(row)) for row in rows])
        for rows in ([t.token_ids for t in played], [t.action_mask for t in played])
    )
    lengths = torch.tensor([len(trajectory.token_ids) for trajectory in played])
    groups = torch.tensor([int(trajectory.task_id == "count 2") for trajectory in played])
    assert unique_tokens(ids, lengths, groups) < 0.7 * int(lengths.sum())
    assert_sharing_changes_nothing(model, ids, mask.float(), groups, lengths)
    logprobs, _ = TokenScorer(model, share_prefixes=True)(ids, mask.float(), False, groups, lengths)
    recorded = torch.tensor([t.logprobs + [0.0] * (width - len(t.logprobs)) for t in played])
    torch.testing.assert_close(logprobs, recorded, atol=1e-4, rtol=1e-4)


def test_no_token_is_computed_twice_and_none_after_the_last_that_is_asked_for() -> None:
    model, ids = small_llama(), torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 3, 0], [5, 6, 7, 8, 2], [4, 4, 4, 4, 4]])
    mask = torch.tensor([[0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]).float()
    scorer, through, scored = TokenScorer(model, share_prefixes=True), [], []
    model.model.embed_tokens.register_forward_pre_hook(lambda module, inputs: through.append(inputs[0].tolist()))
    model.lm_head.register_forward_pre_hook(lambda module, inputs: scored.append(inputs[0].shape[0]))
    scorer(ids, mask)
    assert through == [[[4, 5, 6, 7, 3, 8, 2]]]
    assert scored == [4]  # 7 twice asked for, 3, 8 and 2.
    scorer(ids, mask, groups=torch.tensor([0, 1, 0, 1]))
    assert through[1] == [[5, 6, 7, 8, 2, 4, 5, 6, 7, 3]]


def test_padding_changes_nothing_where_prefixes_are_shared() -> None:
    model, (ids, mask) = small_llama(), batch()
    scorer = TokenScorer(model, share_prefixes=True)
    other = ids.clone()
    other[1, 8:] = 9
    lengths = torch.tensor([12, 8, 12])
    assert torch.equal(scorer(ids, mask, lengths=lengths)[0], scorer(other, mask, lengths=lengths)[0])


@pytest.mark.parametrize("share", [False, True])
def test_a_mask_over_padding_is_refused(share: bool) -> None:
    ids, mask = batch()
    with pytest.raises(ValueError, match="beyond the end of their row"):
        TokenScorer(small_llama(), share_prefixes=share)(ids, mask, lengths=torch.tensor([12, 4, 12]))


@pytest.mark.parametrize("make", [small_scaled, small_mamba])
def test_a_model_that_cannot_share_prefixes_is_refused(make: Callable[[], Any]) -> None:
    model = make().train()
    with pytest.raises(TrainingError, match="share_prefixes=false"):
        TokenScorer(model, share_prefixes=True)
    assert model.training and TokenScorer(model).model is model


def test_attention_in_chunks_is_refused_although_no_probe_would_show_it() -> None:
    model = small_qwen3()
    model.config.layer_types = ["chunked_attention", "full_attention"]
    with pytest.raises(TrainingError, match="share_prefixes=false"):
        TokenScorer(model, share_prefixes=True)


def test_gradient_checkpointing_is_refused_where_prefixes_are_shared() -> None:
    model, (ids, mask) = small_llama(), batch()
    scorer = TokenScorer(model, share_prefixes=True)
    model.model.layers[0].gradient_checkpointing = True
    with pytest.raises(TrainingError, match="gradient checkpointing"):
        scorer(ids, mask)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_of_low_precision_can_share_prefixes(dtype: torch.dtype) -> None:
    ids, mask, _ = branched(torch.Generator().manual_seed(0))
    model = small_qwen3().to(dtype)
    one, other = (TokenScorer(model, share_prefixes=share)(ids, mask)[0] for share in (True, False))
    assert (one - other).abs().mean() < 0.1 * other.abs().mean()
