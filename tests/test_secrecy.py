"""What is taken for a secret."""

import pytest

from agent_gym.secrecy import is_secret


@pytest.mark.parametrize(
    "name", ["api_key", "APIKEY", "server.token", "password", "X-Authorization", "google_credentials"]
)
def test_names_of_secrets_are_known(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ["max_tokens", "api_key_env", "keyboard", "tokenizer", "secretary"])
def test_settings_that_only_sound_alike_are_shown(name: str) -> None:
    assert not is_secret(name)
