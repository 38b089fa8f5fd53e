"""What all tests share: one thread, a tiny tokenizer, a tiny model."""

from collections.abc import Generator
from typing import Any

import hypothesis
import pytest
import torch
from helpers import TEXTS, small_llama

from agent_gym.engines.tiny import train_tokenizer

torch.set_num_threads(1)
# How long an example takes says something of the machine alone.
hypothesis.settings.register_profile(
    "busy machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy machine")


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return train_tokenizer(TEXTS, vocabulary=400)


@pytest.fixture
def model(tokenizer: Any) -> Any:
    """A fresh Llama with grouped-query attention, of the tokenizer's size."""
    return small_llama(len(tokenizer))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Spell out halves of surrogate pairs in what was captured: it goes from worker to worker as UTF-8."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report
