"""Prefix trees of rows, and attention along them: against the plainest way to say what they are."""

import copy
from typing import Any

import pytest
import torch
from helpers import small_llama, trajectory
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from agent_gym.engines.attention import attending_through
from agent_gym.trainers import shared_prefix
from agent_gym.trainers.algorithm import Progress
from agent_gym.trainers.batch import make_batch
from agent_gym.trainers.grpo import grpo
from agent_gym.trainers.shared_prefix import (
    NAME,
    Branch,
    PrefixTree,
    pack,
    tree_attention,
    unique_tokens,
)
from agent_gym.trainers.update import Updater, UpdateSettings

rows_of_few_tokens = st.lists(st.lists(st.integers(0, 2), max_size=7), min_size=1, max_size=7)


def padded(rows: list[list[int]], junk: int = 0) -> tuple[Tensor, Tensor]:
    width = max(1, *map(len, rows))
    return torch.tensor([row + [junk] * (width - len(row)) for row in rows]), torch.tensor([len(row) for row in rows])


def ancestors(tree: PrefixTree) -> Tensor:
    """Return which nodes each node sees (N, N)."""
    seen = torch.zeros(len(tree.tokens), len(tree.tokens), dtype=torch.bool)
    for node, parent in enumerate(tree.parents.tolist()):
        if parent >= 0:
            seen[node] = seen[parent]
        seen[node, node] = True
    return seen


@settings(max_examples=60, deadline=None)
@given(rows_of_few_tokens, st.data())
def test_each_history_of_a_group_is_one_node_and_every_token_finds_its_own(rows: list[list[int]], data: Any) -> None:
    groups = data.draw(st.lists(st.integers(-1, 1), min_size=len(rows), max_size=len(rows)))
    ids, lengths = padded(rows)
    tree = pack(ids, lengths, torch.tensor(groups))
    history: dict[int, tuple[int, tuple[int, ...]]] = {}
    for number, (group, row) in enumerate(zip(groups, rows, strict=True)):
        nodes = tree.nodes[number].tolist()
        assert nodes[len(row) :] == [-1] * (ids.shape[1] - len(row))
        for position, node in enumerate(nodes[: len(row)]):
            assert history.setdefault(node, (group, tuple(row[: position + 1]))) == (group, tuple(row[: position + 1]))
            assert (int(tree.tokens[node]), int(tree.depths[node])) == (row[position], position)
            assert int(tree.parents[node]) == (nodes[position - 1] if position else -1) < node
    assert sorted(history) == list(range(len(tree.tokens)))
    assert len(set(history.values())) == len(history) == unique_tokens(ids, lengths, torch.tensor(groups))


@settings(max_examples=30, deadline=None)
@given(rows_of_few_tokens)
def test_branches_cut_the_nodes_and_paths_lead_from_roots_to_leaves(rows: list[list[int]]) -> None:
    ids, lengths = padded(rows)
    tree = pack(ids, lengths)
    paths, at = tree.paths.tolist(), 0
    assert [node for branch in tree.branches for node in range(branch.start, branch.end)] == [*range(len(tree.tokens))]
    for branch in tree.branches:
        path = paths[at : at + branch.shared + branch.end - branch.start]
        at += len(path)
        assert path[branch.shared :] == list(range(branch.start, branch.end))
        assert tree.parents[path].tolist() == [-1, *path[:-1]]
    assert at == len(paths)


def test_without_groups_all_rows_share_and_with_them_only_their_members() -> None:
    ids, lengths = padded([[5, 6, 7], [5, 6, 8], [5, 6, 7]])
    assert unique_tokens(ids, lengths) == 4
    assert unique_tokens(ids, lengths, torch.tensor([0, 0, 1])) == 7
    assert pack(ids, lengths).branches == (Branch(0, 3, 0), Branch(3, 4, 2))


def test_padding_is_never_looked_at() -> None:
    rows = [[1, 2], [1, 2, 0], [1], [1, 2, 0, 0], []]
    one, other = pack(*padded(rows)), pack(*padded(rows, junk=9))
    for name in ("tokens", "depths", "parents", "nodes", "paths"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert one.branches == other.branches


@settings(max_examples=25, deadline=None)
@given(rows_of_few_tokens.filter(any), st.sampled_from([None, 1, 3]), st.sampled_from([1, 2, 128]))
def test_attention_is_that_of_the_dense_tree_mask(rows: list[list[int]], window: int | None, queries: int) -> None:
    tree = pack(*padded(rows))
    generator = torch.Generator().manual_seed(len(rows))
    count = len(tree.tokens)
    query = torch.randn(1, 4, count, 8, generator=generator, requires_grad=True)
    key, value = (torch.randn(1, 2, count, 8, generator=generator, requires_grad=True) for _ in range(2))
    seen = ancestors(tree)
    if window is not None:
        seen &= tree.depths.unsqueeze(1) - tree.depths < window
    expected = scaled_dot_product_attention(
        query, key.repeat_interleave(2, 1), value.repeat_interleave(2, 1), attn_mask=seen, scale=0.3
    ).transpose(1, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_prefix, "QUERIES", queries)
        got, _ = tree_attention(
            nn.Module(), query, key, value, None, scaling=0.3, sliding_window=window, prefix_tree=tree
        )
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn(got.shape, generator=generator)
    mine, theirs = (torch.autograd.grad((out * weights).sum(), (query, key, value)) for out in (got, expected))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("extra", [{"softcap": 30.0}, {"s_aux": torch.zeros(1)}, {"prefix_tree": None}])
def test_attention_of_another_kind_is_refused(extra: dict[str, Any]) -> None:
    tensor = torch.zeros(1, 1, 2, 4)
    arguments = {"prefix_tree": pack(torch.tensor([[1, 2]]), torch.tensor([2])), **extra}
    with pytest.raises(NotImplementedError):
        tree_attention(nn.Module(), tensor, tensor, tensor, None, **arguments)


def test_the_model_attends_as_before_after_the_block_whatever_happens_in_it() -> None:
    model = small_llama()
    before = model.config._attn_implementation
    with pytest.raises(ZeroDivisionError), attending_through(model, NAME):
        assert model.config._attn_implementation == shared_prefix.NAME
        raise ZeroDivisionError
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("tokens", [100, 100_000])
def test_an_optimiser_step_has_the_same_gradient(tokens: int) -> None:
    model, members = small_llama(), []
    for seed in range(6):
        root = trajectory(8, 5, seed=seed // 3)
        root.token_ids[13 + 4 * (seed % 3) :] = trajectory(8, 5, seed=seed).token_ids[13 + 4 * (seed % 3) :]
        members.append(root)
    rows = make_batch(members, [1.0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1])
    algorithm = grpo(entropy_coefficient=0.01)
    algorithm.fill(rows)
    grads = []
    for share in (False, True):
        trained = copy.deepcopy(model)
        given = UpdateSettings(share_prefixes=share, micro_batch_tokens=tokens, max_grad_norm=1e9)
        Updater(trained, given).step(copy.deepcopy(rows), algorithm, Progress(0, 2), seed=0)
        grads.append([parameter.grad for parameter in trained.parameters()])
    assert unique_tokens(rows.input_ids, rows.lengths, rows.groups) < int(rows.lengths.sum())
    for one, other in zip(*grads, strict=True):
        assert one is not None and other is not None
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
