"""Data sets of the hub; the package that reads them is played, because the hub cannot be reached here."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from agent_gym.envs.questions import HubData
from agent_gym.errors import DataError, MissingExtraError


class HubError(Exception):
    """Plays `datasets.exceptions.DatasetsError`."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Play the package; what is asked of it is listed."""
    asked: list[Any] = []

    def load_dataset(path: str, config: str | None, *, split: str) -> list[dict[str, Any]]:
        asked.append((path, config, split))
        if path == "nobody/nothing":
            raise HubError("not found")
        return [{"question": "a", "answer": "b"}]

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    module.exceptions = SimpleNamespace(DatasetsError=HubError)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


def test_our_split_is_asked_for_by_its_own_name(hub: list[Any]) -> None:
    data = HubData("hotpotqa/hotpot_qa", {"valid": "validation"}, "distractor")
    assert data.rows("valid") == [{"question": "a", "answer": "b"}]
    assert hub == [("hotpotqa/hotpot_qa", "distractor", "validation")]


def test_a_name_may_have_a_configuration() -> None:
    assert HubData.named("openai/gsm8k:main") == HubData(
        "openai/gsm8k", {"train": "train", "valid": "validation", "test": "test"}, "main"
    )
    assert HubData.named("someone/set").config is None


def test_a_data_set_that_cannot_be_had_is_named(hub: list[Any]) -> None:
    with pytest.raises(DataError, match="split 'test' of nobody/nothing cannot be had from the hub"):
        HubData.named("nobody/nothing").rows("test")


def test_a_missing_package_is_told_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"agent-gym\[datasets\]"):
        HubData.named("a/b").rows("test")
