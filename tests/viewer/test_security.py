"""Who may ask, and what answers carry; in requests as a browser, and as an attacker's page, sends them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import HOSTILE, training_run

from agent_gym.errors import ConfigError

pytest.importorskip("starlette")

from starlette.testclient import TestClient

from agent_gym.viewer.security import is_loopback, token_for
from agent_gym.viewer.server import make_app

TOKEN = "a-token-of-some-length"
Client = Callable[..., TestClient]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_run(tmp_path_factory.mktemp("runs") / "trained").path


def client(
    run: Path, *, at: str = "http://localhost:8777", host: str = "127.0.0.1", token: str | None = None
) -> TestClient:
    return TestClient(make_app([run], host=host, token=token), base_url=at, follow_redirects=False)


# -- host names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["localhost", "localhost:8777", "127.0.0.1:9999", "[::1]:8777", "LOCALHOST:1"])
def test_this_machine_is_answered_at_any_port(run: Path, name: str) -> None:
    assert client(run).get("/api/runs", headers={"host": name}).status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "attacker.example",
        "attacker.example:8777",
        "localhost.attacker.example",
        "127.0.0.1.nip.io",
        "192.168.1.5",
        "",
        "[",
        "a@localhost:b",
    ],
)
def test_another_name_that_resolves_to_this_machine_is_refused(run: Path, name: str) -> None:
    for path in ("/", "/api/runs", "/static/base.js"):
        answer = client(run).get(path, headers={"host": name})
        assert answer.status_code == 421 and "host name" in answer.json()["error"]


def test_the_given_host_is_answered_and_everywhere_means_addresses_but_no_foreign_name(run: Path) -> None:
    named = client(run, host="gpu7.lab", at="http://gpu7.lab:8777")
    assert named.get("/api/runs").status_code == 200
    everywhere = client(run, host="0.0.0.0", at="http://10.1.2.3:8777")
    assert everywhere.get("/api/runs").status_code == 200
    assert everywhere.get("/api/runs", headers={"host": "attacker.example"}).status_code == 421


# -- the token ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("127.9.9.9", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.2", False),
        ("gpu7", False),
    ],
)
def test_a_token_is_made_up_where_others_can_reach_the_server(host: str, local: bool) -> None:
    assert is_loopback(host) is local
    made = token_for(host, None)
    assert (made is None) is local
    assert local or (len(made or "") >= 32 and made != token_for(host, None))


def test_a_token_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(ConfigError, match="too short"):
        token_for("0.0.0.0", "secret")
    assert token_for("127.0.0.1", TOKEN) == TOKEN


def test_without_the_token_nothing_is_served(run: Path) -> None:
    asking = client(run, token=TOKEN)
    for path in (
        "/",
        "/static/base.js",
        "/api/runs",
        "/api/episodes",
        "/nowhere",
        "/?token=",
        "/?token=wrong",
        f"/api/runs?token={TOKEN}x",
    ):
        answer = asking.get(path)
        assert answer.status_code == 401 and TOKEN not in answer.text
    assert asking.get("/api/runs", headers={"authorization": f"Bearer {TOKEN[:-1]}"}).status_code == 401
    assert asking.get("/api/runs", headers={"cookie": "x=\x01; agent_gym_00000000=1"}).status_code == 401


def test_the_token_becomes_a_cookie_and_leaves_the_address(run: Path) -> None:
    asking = client(run, token=TOKEN)
    answer = asking.get(f"/?token={TOKEN}&a=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?a=1")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
    assert asking.get("/api/runs").status_code == 200
    assert asking.get("/").status_code == 200


def test_programs_bring_the_token_as_a_bearer_token(run: Path) -> None:
    answer = client(run, token=TOKEN).get("/api/runs", headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200


# -- requests and answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_but_reading(run: Path, method: str) -> None:
    for path in ("/", "/api/runs", "/nowhere"):
        answer = client(run).request(method, path)
        assert answer.status_code == 405 and answer.headers["allow"] == "GET, HEAD"


def test_pages_of_other_sites_get_no_data(run: Path) -> None:
    asking = client(run)
    assert asking.get("/api/runs", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert asking.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200
    assert asking.get("/api/runs", headers={"sec-fetch-site": "same-origin"}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/static/base.js", "/api/runs", "/api/episode?id=nope", "/nowhere"])
def test_every_answer_forbids_scripts_that_are_not_the_pages_own(run: Path, path: str) -> None:
    headers = client(run).get(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"
    )
    assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers


def test_a_hostile_episode_is_data_and_nothing_else(run: Path) -> None:
    answer = client(run).get("/api/episode", params={"id": "train/1/g1e1"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["turns"][0]["text"].startswith(HOSTILE)
    assert answer.text.isascii()


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2fserver.py",
        "/static//etc/passwd",
        "/static/",
        "/static/index.html",
        "/static/__init__.py",
        "/etc/passwd",
        "/config.yaml",
        "/api/",
    ],
)
def test_no_path_reaches_a_file(run: Path, path: str) -> None:
    answer = client(run).get(path)
    assert answer.status_code == 404 and answer.json() == {
        "error": "There is nothing at this address; the page is at /."
    }


def test_the_page_and_its_files_have_their_types(run: Path) -> None:
    asking = client(run)
    assert asking.get("/").headers["content-type"] == "text/html; charset=utf-8"
    assert asking.get("/static/base.js").headers["content-type"] == "text/javascript; charset=utf-8"
    assert asking.head("/").content == b""
