"""Drawing tokens: the right distribution, exact entropies, random numbers that depend on the request alone."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_gym.engines.base import Sampling
from agent_gym.engines.sampling import draw, uniforms

DRAWS = 20_000


def logits_of(probabilities: list[float]) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def frequencies(logits: torch.Tensor, temperature: float = 1.0, **cuts: torch.Tensor) -> torch.Tensor:
    """Return how often each token came in many draws of one distribution (V,)."""
    uniform = uniforms([11] * DRAWS, range(DRAWS))
    rows = logits.expand(DRAWS, -1)
    expanded = {name: value.expand(DRAWS) for name, value in cuts.items()}
    tokens, _, _ = draw(rows, torch.full((DRAWS,), temperature), uniform, **expanded)
    return tokens.bincount(minlength=logits.shape[-1]).float()


def chi_square(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the statistic over the tokens that can come; the others must not have come."""
    possible = expected > 0
    assert counts[~possible].sum() == 0
    wanted = expected[possible] * DRAWS
    return float(((counts[possible] - wanted) ** 2 / wanted).sum())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(temperature: float) -> None:
    logits = torch.randn(20, generator=torch.Generator().manual_seed(0)) * 2
    counts = frequencies(logits, temperature)
    # 19 degrees of freedom: 43.8 is the quantile of 0.999.
    assert chi_square(counts, (logits / temperature).softmax(-1)) < 43.8


def test_top_k_and_top_p_cut_the_tail_and_keep_the_proportions() -> None:
    logits = logits_of([0.1, 0.4, 0.05, 0.3, 0.15])
    kept = torch.tensor([0.0, 0.4, 0.0, 0.3, 0.0]) / 0.7
    assert chi_square(frequencies(logits, top_k=torch.tensor(2)), kept) < 10.8
    assert chi_square(frequencies(logits, top_p=torch.tensor(0.6)), kept) < 10.8
    both = frequencies(logits, top_k=torch.tensor(4), top_p=torch.tensor(0.6))
    assert chi_square(both, kept) < 10.8


def test_top_p_keeps_the_smallest_set_that_reaches_it_and_always_one_token() -> None:
    logits = logits_of([0.5, 0.25, 0.125, 0.125])
    for top_p, tokens in ((0.01, {0}), (0.5, {0}), (0.51, {0, 1}), (0.75, {0, 1}), (1.0, {0, 1, 2, 3})):
        counts = frequencies(logits, top_p=torch.tensor(top_p))
        assert set(counts.nonzero().flatten().tolist()) == tokens, top_p


def test_each_row_has_its_own_settings() -> None:
    logits = logits_of([0.2, 0.5, 0.3]).expand(4, -1)
    tokens, _, _ = draw(
        logits,
        torch.tensor([0.0, 1.0, 1.0, 1.0]),
        torch.tensor([0.9, 0.05, 0.999, 0.999]),
        torch.tensor([1.0, 1.0, 0.4, 1.0]),
        torch.tensor([0, 0, 0, 0]),
    )
    assert tokens.tolist() == [1, 0, 1, 2]


def test_greedy_takes_the_most_probable_token_with_the_numbers_of_temperature_1() -> None:
    logits = torch.randn(5, 30, generator=torch.Generator().manual_seed(1))
    greedy = draw(logits, torch.zeros(5), torch.rand(5))
    plain = draw(logits, torch.ones(5), torch.rand(5))
    assert torch.equal(greedy[0], logits.argmax(-1))
    torch.testing.assert_close(greedy[1], logits.log_softmax(-1).max(-1).values)
    assert torch.equal(greedy[2], plain[2])


def test_logprobs_and_entropies_are_those_of_the_uncut_distribution_after_temperature() -> None:
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(2)).double()
    temperatures = torch.tensor([0.5, 1.0, 2.0, 0.5, 1.0, 2.0])
    tokens, logprobs, entropies = draw(
        logits, temperatures, torch.rand(6), torch.full((6,), 0.3), torch.full((6,), 3, dtype=torch.long)
    )
    expected = torch.distributions.Categorical(logits=logits / temperatures.unsqueeze(1))
    torch.testing.assert_close(logprobs.double(), expected.log_prob(tokens), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropies.double(), expected.entropy(), atol=1e-5, rtol=1e-5)


def test_entropy_of_even_and_of_certain_distributions() -> None:
    certain = torch.tensor([0.0, -math.inf, -math.inf, -math.inf])
    _, logprobs, entropies = draw(torch.stack([torch.zeros(4), certain]), torch.ones(2), torch.tensor([0.3, 0.99]))
    assert entropies.tolist() == pytest.approx([math.log(4), 0.0], abs=1e-6)
    assert float(logprobs[1]) == 0.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=9).filter(lambda row: sum(row) > 0.01))
def test_the_ends_of_the_unit_interval_give_possible_tokens(weights: list[float]) -> None:
    logits = torch.tensor(weights).log()
    uniform = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    tokens, logprobs, _ = draw(logits.expand(2, -1), torch.ones(2), uniform)
    assert torch.isfinite(logprobs).all()
    assert tokens.tolist() == sorted(tokens.tolist())


def test_random_numbers_do_not_depend_on_what_stands_beside_them() -> None:
    seeds, counters = [5, 9, 5, -3, 2**63 - 1], [0, 0, 1, 7, 3]
    together = uniforms(seeds, counters).tolist()
    assert together == [float(uniforms([seed], [count])) for seed, count in zip(seeds, counters, strict=True)]
    assert together[::-1] == uniforms(seeds[::-1], counters[::-1]).tolist()
    assert len(set(together)) == 5


def test_random_numbers_are_even_and_neighbours_unrelated() -> None:
    for numbers in (uniforms([3] * 4096, range(4096)), uniforms(range(4096), [0] * 4096)):
        assert float(numbers.min()) >= 0 and float(numbers.max()) < 1
        counts = torch.histc(numbers, 16, 0, 1)
        assert float(((counts - 256) ** 2 / 256).sum()) < 37.7
        centred = numbers - 0.5
        assert abs(float((centred[:-1] * centred[1:]).mean())) * 12 < 0.06


def test_a_seeded_sampling_differs_in_its_seed_alone() -> None:
    sampling = Sampling(max_tokens=3, temperature=0.5, top_p=0.9, top_k=4, stop=("x",), stop_token_ids=(1,), seed=2)
    assert sampling.seeded(7) == replace(sampling, seed=7)
    assert sampling.seed == 2
