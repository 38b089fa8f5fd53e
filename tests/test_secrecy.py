"""What is taken for a secret."""

import pytest

from agent_gym.secrecy import is_secret, secrets_in


@pytest.mark.parametrize(
    "name", ["api_key", "APIKEY", "server.token", "password", "X-Authorization", "google_credentials"]
)
def test_names_of_secrets_are_known(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ["max_tokens", "api_key_env", "keyboard", "tokenizer", "secretary"])
def test_settings_that_only_sound_alike_are_shown(name: str) -> None:
    assert not is_secret(name)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"tools": [{"id": "a"}, {"api_key": "sesame"}]}, "o.tools[1].api_key"),
        ({"servers": ({"headers": {"Authorization": "sesame"}},)}, "o.servers[0].headers.Authorization"),
        ({"url": "https://sesame@example.org/x"}, "o.url"),
        ({"urls": ["http://here", "http://me:sesame@there:80"]}, "o.urls[1]"),
        ({"url": "https://example.org/?page=1&api_key=sesame"}, "o.url"),
        ({"command": ["serve", "--api-key", "sesame"]}, "o.command[2]"),
        ({"command": ["serve", "--token=sesame"]}, "o.command[1]"),
        ({"command": ["serve", "--token=-sesame"]}, "o.command[1]"),
        ({"url": "https://example.org/?token=-sesame"}, "o.url"),
        ({"tools": ["calculator", "mcp:python shop.py --token=sesame"]}, "o.tools[1]"),
        ({"tools": ["mcp:python shop.py --api-key sesame"]}, "o.tools[0]"),
        ({"tools": ["mcp:env SHOP_API_KEY=sesame python shop.py"]}, "o.tools[0]"),
    ],
)
def test_secrets_are_found_however_deep(options: dict[str, object], where: str) -> None:
    assert list(secrets_in(options, "o")) == [where]


def test_what_holds_no_secret_is_not_taken_for_one() -> None:
    harmless = {
        "max_tokens": 3,
        "api_key": None,
        "tools": [{"api_key": ""}, "http://example.org/a@b?page=2"],
        "command": ["serve --key --tokens=3 TOKENS=3", "--tokens", "3", "--key"],
        "prompt": "Say token=3 to me@example.org, see http://example.org.",
    }
    assert list(secrets_in(harmless, "o")) == []
