"""Search engines on the web, against a server on the loopback that answers as they do."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from loopback import Request, Server, serving

from agent_gym.errors import ConfigError, ToolError
from agent_gym.tools.search import ENGINES, Bing, Brave, Hit, SearchCache, SearXNG, Serper, WebSearch
from agent_gym.tools.web import RateLimit, Retries

KEY = "secret-key-4711"
SERPER = {
    "searchParameters": {"q": "thutmose", "type": "search"},
    "answerBox": {"title": "Thutmose I / Burial", "answer": "KV38", "link": "https://a.org/kv38"},
    "organic": [
        {
            "title": "KV20",
            "link": "https://a.org/kv20",
            "snippet": "The tomb of Hatshepsut &amp; Thutmose",
            "position": 1,
        },
        {"title": "No snippet", "link": "https://a.org/none"},
        {"title": "Neither snippet nor link"},
    ],
}
BRAVE = {
    "type": "search",
    "web": {"results": [{"title": "KV20", "url": "https://a.org/kv20", "description": "The <strong>tomb</strong> of"}]},
}
SEARXNG = {
    "query": "thutmose",
    "results": [
        {"title": "KV20", "url": "https://a.org/kv20", "content": "The tomb", "score": 2.5, "engines": ["x"]},
        {"title": "KV38", "url": "https://a.org/kv38", "content": None, "score": None},
    ],
}
BING = {
    "_type": "SearchResponse",
    "webPages": {"value": [{"id": "1", "name": "KV20", "url": "https://a.org/kv20", "snippet": "The tomb"}]},
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serving({}) as server:
        yield server


def answer(value: Any) -> Callable[[Request], None]:
    return lambda request: request.reply(json.dumps(value), content_type="application/json")


def make(kind: type[WebSearch], server: Server, waits: list[float] | None = None, **options: Any) -> WebSearch:
    retries = Retries(sleep=(waits if waits is not None else []).append, random=lambda: 1.0)
    key = {"api_key": KEY} if kind.key_variable else {}
    return kind(base_url=server.url, **{"retries": retries, "timeout": 30.0, **key, **options})


def test_serper_is_asked_and_understood(server: Server) -> None:
    server.answers["/search"] = answer(SERPER)
    hits = make(Serper, server, parameters={"gl": "de"}).search("  thutmose \n tomb", 3)
    assert hits == [
        Hit("Thutmose I / Burial", "https://a.org/kv38", "KV38"),
        Hit("KV20", "https://a.org/kv20", "The tomb of Hatshepsut & Thutmose"),
        Hit("No snippet", "https://a.org/none", ""),
    ]
    request = server.requests[0]
    assert (request.command, request.headers["X-API-KEY"]) == ("POST", KEY)
    assert json.loads(request.body) == {"q": "thutmose tomb", "num": 3, "gl": "de"}


def test_brave_is_asked_and_understood(server: Server) -> None:
    server.answers["/res/v1/web/search"] = answer(BRAVE)
    assert make(Brave, server).search("thutmose & co", 50) == [Hit("KV20", "https://a.org/kv20", "The tomb of")]
    request = server.requests[0]
    assert request.headers["X-Subscription-Token"] == KEY
    assert parse_qs(urlsplit(request.path).query) == {"q": ["thutmose & co"], "count": ["20"]}


def test_searxng_is_asked_and_understood(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers["/search"] = answer(SEARXNG)
    monkeypatch.setenv("SEARXNG_URL", f"{server.url}/")
    hits = SearXNG().search("北京", 1)
    assert hits == [Hit("KV20", "https://a.org/kv20", "The tomb", 2.5)]
    assert parse_qs(urlsplit(server.requests[0].path).query) == {"q": ["北京"], "format": ["json"]}


def test_bing_is_asked_and_understood(server: Server) -> None:
    server.answers["/v7.0/search"] = answer(BING)
    bing = Bing(base_url=f"{server.url}/v7.0", api_key=KEY)
    assert bing.search("thutmose", 5) == [Hit("KV20", "https://a.org/kv20", "The tomb")]
    assert server.requests[0].headers["Ocp-Apim-Subscription-Key"] == KEY


@pytest.mark.parametrize("kind", ENGINES.values())
def test_an_answer_without_results_has_no_hits(kind: type[WebSearch], server: Server) -> None:
    server.answers[""] = answer({})
    assert make(kind, server).search("thutmose", 5) == []


@pytest.mark.parametrize("kind", ENGINES.values())
@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html>proxy error</html>", b"[1]", b'"text"', b"{", b"\xff\xfe", b"[" * 100_000,
        b'{"organic": 5, "web": 5, "results": 5, "webPages": 5}',
        b'{"organic": ["a"], "web": {"results": ["a"]}, "results": ["a"], "webPages": {"value": ["a"]}}',
        b'{"answerBox": "a", "web": "a", "results": [{"score": "high"}], "webPages": {"value": 7}}',
    ],
)  # fmt: skip
def test_an_answer_in_another_format_is_one_sentence(kind: type[WebSearch], server: Server, body: bytes) -> None:
    server.answers[""] = lambda request: request.reply(body)
    with pytest.raises(ToolError, match=rf"^{kind.name} gave an answer that [^\n]*\.$"):
        make(kind, server).search("thutmose", 5)
    assert len(server.requests) == 1


def test_a_busy_engine_is_asked_again_when_it_says(server: Server) -> None:
    busy = [("429", "7"), ("503", None)]

    def reply(request: Request) -> None:
        if busy:
            status, wait = busy.pop(0)
            request.reply(status=int(status), **({"retry_after": wait} if wait else {}))
        else:
            answer(BRAVE)(request)

    server.answers[""] = reply
    waits: list[float] = []
    assert make(Brave, server, waits).search("thutmose", 5)
    assert waits == [7.0, 1.0] and len(server.requests) == 3


def test_an_engine_that_stays_out_of_order_is_given_up(server: Server) -> None:
    server.answers[""] = lambda request: request.reply(f"internal error, key {KEY}", status=500)
    waits: list[float] = []
    with pytest.raises(ToolError, match=r"^Brave is out of order \(status 500\) \(4 of 4 tries\): try again later\.$"):
        make(Brave, server, waits).search("thutmose", 5)
    assert waits == [0.5, 1.0, 2.0] and len(server.requests) == 4


def test_an_engine_that_asks_for_an_hour_is_not_waited_for(server: Server) -> None:
    server.answers[""] = lambda request: request.reply(status=429, retry_after="3600")
    waits: list[float] = []
    with pytest.raises(ToolError, match="is asked too often"):
        make(Brave, server, waits).search("thutmose", 5)
    assert waits == []


def test_a_server_that_never_answers_is_given_up(server: Server) -> None:
    server.answers[""] = lambda request: server.released.wait() and None
    with pytest.raises(ToolError, match=r"^Brave did not answer within 0\.02 seconds \(2 of 2 tries\)"):
        make(Brave, server, timeout=0.02, retries=Retries(tries=2, sleep=lambda _: None)).search("thutmose", 5)


def test_an_answer_that_never_ends_is_given_up(server: Server) -> None:
    def drip(request: Request) -> None:
        request.send_response_only(200)
        request.end_headers()
        while not server.released.is_set():
            request.wfile.write(b" ")

    server.answers[""] = drip
    with pytest.raises(ToolError, match=r"did not answer within|is too long"):
        make(Brave, server, timeout=0.05, retries=Retries(tries=1)).search("thutmose", 5)


def test_an_answer_that_is_too_long_is_not_read(server: Server) -> None:
    server.answers[""] = lambda request: request.reply(b" " * (5 * 1024 * 1024))
    with pytest.raises(ToolError, match="too long"):
        make(Brave, server).search("thutmose", 5)


def test_a_server_that_is_not_there_is_one_sentence(server: Server) -> None:
    engine = make(Brave, server)
    server.server_close()
    with pytest.raises(ToolError, match=r"^Brave could not be reached \(4 of 4 tries\)"):
        engine.search("thutmose", 5)


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused_names_its_variable(server: Server, status: int) -> None:
    server.answers[""] = lambda request: request.reply(status=status)
    with pytest.raises(ToolError, match="check BRAVE_SEARCH_API_KEY"):
        make(Brave, server).search("thutmose", 5)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [302, 400, 404])
def test_the_key_does_not_follow_a_redirect_and_other_refusals_are_final(server: Server, status: int) -> None:
    server.answers[""] = lambda request: request.reply(status=status, location=f"{server.url}/elsewhere")
    with pytest.raises(ToolError, match=f"does not accept the query \\(status {status}\\)"):
        make(Brave, server).search("thutmose", 5)
    assert len(server.requests) == 1


def test_the_key_is_in_no_log_no_error_no_cache_and_no_representation(
    server: Server, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    replies = [
        lambda r: r.reply(KEY, status=401),
        lambda r: r.reply(KEY, status=503),
        lambda r: r.reply(KEY),
        answer(SERPER),
    ]
    server.answers[""] = lambda request: replies[len(server.requests) - 1](request)
    engine = make(Serper, server, cache=tmp_path / "cache.sqlite", retries=Retries(tries=1))
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            with pytest.raises(ToolError) as caught:
                engine.search("thutmose", 5)
            assert KEY not in str(caught.value)
        assert engine.search("thutmose", 5)
    assert caplog.records and KEY not in caplog.text and KEY not in repr(engine)
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.iterdir())


def test_a_search_that_was_made_is_not_paid_for_again(server: Server, tmp_path: Path) -> None:
    server.answers[""] = answer(BRAVE)
    cache = SearchCache(tmp_path / "cache.sqlite")
    for _ in range(2):
        assert make(Brave, server, cache=cache).search("thutmose", 5)
    assert len(server.requests) == 1
    make(Brave, server, cache=cache).search("thutmose", 6)
    make(Brave, server, cache=cache, parameters={"country": "de"}).search("thutmose", 5)
    make(Bing, server, cache=cache).search("thutmose", 5)
    make(Brave, server, cache=cache).search("thutmose ", 5)
    assert len(server.requests) == 4


def test_failures_are_not_kept(server: Server, tmp_path: Path) -> None:
    engine = make(Brave, server, cache=tmp_path / "cache.sqlite", retries=Retries(tries=1))
    server.answers[""] = lambda request: request.reply(status=500)
    with pytest.raises(ToolError):
        engine.search("thutmose", 5)
    server.answers[""] = answer(BRAVE)
    assert engine.search("thutmose", 5)


def test_a_cache_that_breaks_costs_no_results(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = make(Brave, server, cache=tmp_path / "cache.sqlite")
    for path in tmp_path.iterdir():
        path.write_bytes(b"damaged " * 1000)
    server.answers[""] = answer(BRAVE)
    assert engine.search("thutmose", 5)
    assert "cannot be used" in caplog.text


def test_a_rate_limit_spaces_the_searches(server: Server) -> None:
    slept: list[float] = []
    server.answers[""] = answer(BRAVE)
    engine = make(Brave, server, rate=RateLimit(2, clock=lambda: 0.0, sleep=slept.append))
    for query in ("a", "b", "c"):
        engine.search(query, 1)
    assert slept == [0.5, 1.0]


def test_a_rate_limit_that_is_far_exceeded_is_an_observation(server: Server) -> None:
    crowded = RateLimit(0.01, clock=lambda: 0.0)
    crowded.wait()
    with pytest.raises(ToolError, match="more often than its rate limit allows"):
        make(Brave, server, rate=crowded).search("x", 1)
    assert not server.requests


def test_nothing_to_search_for_asks_nobody(server: Server) -> None:
    engine = make(Brave, server)
    assert engine.search(" \n ", 5) == [] and engine.search("a", 0) == [] and not server.requests


def test_a_query_without_end_is_cut(server: Server) -> None:
    server.answers[""] = answer(BRAVE)
    make(Brave, server).search("x" * 1_000_000, 1)
    assert len(parse_qs(urlsplit(server.requests[0].path).query)["q"][0]) == 400


def test_half_a_surrogate_pair_in_a_query_is_no_obstacle(server: Server) -> None:
    server.answers[""] = answer({})
    for kind in ENGINES.values():
        assert make(kind, server).search("a\ud800b", 5) == []


def test_what_is_missing_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SERPER_API_KEY", "SEARXNG_URL"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ToolError, match="set the environment variable SERPER_API_KEY"):
        Serper()
    with pytest.raises(ConfigError, match="SearXNG needs a base_url"):
        SearXNG()
    with pytest.raises(ConfigError, match="Bing needs a base_url"):
        Bing(api_key=KEY)
    for key in ("two\nlines", "Schlüssel", " \n"):
        with pytest.raises(ToolError, match="needs a key") as caught:
            Serper(api_key=key)
        assert "Schl" not in str(caught.value)
    for address in ("google.serper.dev", "ftp://a.org", "http://", "http://a.org:port"):
        with pytest.raises(ConfigError, match="needs a base_url"):
            Serper(api_key=KEY, base_url=address)
    monkeypatch.setenv("SERPER_API_KEY", f"{KEY}\n")
    Serper().close()
