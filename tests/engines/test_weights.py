"""New weights in a model that is already there."""

from collections.abc import Iterator

import pytest
import torch
from helpers import small_llama

from agent_gym.engines.weights import copy_weights
from agent_gym.errors import EngineError


def test_weights_are_taken_one_by_one() -> None:
    model, other = small_llama(), small_llama(seed=1)
    own = model.state_dict()
    before = None

    def weights() -> Iterator[tuple[str, torch.Tensor]]:
        nonlocal before
        for name, tensor in other.state_dict().items():
            if before is not None:
                torch.testing.assert_close(own[before], other.state_dict()[before], rtol=0, atol=0)
            yield name, tensor
            before = name

    copy_weights(model, weights())
    assert before is not None


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([("nonsense", torch.zeros(1))], "no 'nonsense'"),
        ([("model.norm.weight", torch.zeros(3))], "shape"),
        ([("model.norm.weight", torch.zeros(32))], "missing"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: list[tuple[str, torch.Tensor]], said: str) -> None:
    with pytest.raises(EngineError, match=f"do not fit.*{said}"):
        copy_weights(small_llama(), weights)


def test_tied_weights_may_be_given_once() -> None:
    model, other = (small_llama(seed=seed, tie_word_embeddings=True) for seed in (0, 1))
    copy_weights(model, (pair for pair in other.state_dict().items() if pair[0] != "lm_head.weight"))
    torch.testing.assert_close(model.lm_head.weight, other.lm_head.weight, rtol=0, atol=0)
