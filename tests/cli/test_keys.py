"""`agent-gym keys`: what a configuration may say."""

import pytest

from agent_gym.cli.keys import list_keys
from agent_gym.config import EvalConfig, TrainConfig
from agent_gym.config_files import as_dict


def flat(values: dict[str, object], prefix: str = "") -> set[str]:
    """Return dotted names of all values; what an environment or a method may be told is not listed."""
    names: set[str] = set()
    for name, value in values.items():
        names |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}"}
    return names


@pytest.mark.parametrize(("evaluation", "config"), [(False, TrainConfig()), (True, EvalConfig())])
def test_every_key_is_listed_with_what_it_means(
    evaluation: bool,
    config: TrainConfig | EvalConfig,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    list_keys(None, evaluation=evaluation)
    rows = [line.split("│")[1:4] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    told = {key.strip(): meaning.strip() for key, _, meaning in rows}
    assert flat(as_dict(config)) <= told.keys() and all(told.values())


def test_a_section_shows_defaults_and_choices(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    list_keys("update", evaluation=False)
    said = capsys.readouterr().out
    assert "update.learning_rate " in said and "1e-06" in said and "How it falls. One of linear, cosine." in said
    assert "rollout." not in said
    list_keys("model.lora", evaluation=False)
    assert "model.lora.rank" in capsys.readouterr().out
