"""What can be said of making vLLM's engine where there is no vLLM."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from agent_gym.engines.choice import make_engine
from agent_gym.engines.vllm_building import BeforeCuts, report_before_cuts, stored_dtype
from agent_gym.errors import MissingExtraError
from agent_gym.sections import EngineSection


def test_without_vllm_the_engine_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, model: Any, tokenizer: Any
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtraError, match=r"vLLM is not installed: run pip install 'agent-gym\[vllm\]'"):
        make_engine(EngineSection(kind="vllm"), model=model, tokenizer=tokenizer, max_batch=4)


def cutting(logits: Tensor, generators: Any, k: Tensor | None, p: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Choose the best token, and overwrite the logits as vLLM does."""
    if k is not None:
        logits[:, 0] = -torch.inf
    return logits.argmax(-1), logits.log_softmax(-1)


def test_log_probabilities_are_reported_as_they_were_before_a_cut() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    expected = logits.log_softmax(-1)
    tokens, logprobs = BeforeCuts(cutting)(logits, {}, torch.tensor([2]), None)
    assert tokens.tolist() == [1]
    torch.testing.assert_close(logprobs, expected)


def test_without_a_cut_vllms_own_are_reported() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    _, logprobs = BeforeCuts(cutting)(logits, {}, None, None)
    torch.testing.assert_close(logprobs, logits.log_softmax(-1))


def test_a_worker_with_another_sampler_says_that_it_cannot() -> None:
    class Worker:
        model_runner = type("Runner", (), {"sampler": object()})()

    assert not report_before_cuts(Worker())


def test_the_stored_type_is_left_to_vllm_where_it_is_not_known(tmp_path: Any) -> None:
    assert stored_dtype(str(tmp_path / "none")) == "auto"


def test_the_stored_type_is_that_of_the_weights(tmp_path: Any, model: Any) -> None:
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    assert stored_dtype(str(tmp_path)) == "bfloat16"
