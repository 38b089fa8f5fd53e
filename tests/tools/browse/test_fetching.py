"""Fetching from servers that are slow, endless, lying or hostile; all of them on the loopback."""

import gzip
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from loopback import Request, Server, serving

from agent_gym.errors import ConfigError, ToolError
from agent_gym.tools.browse import Fetcher


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({}) as server:
        yield server


def fetcher(server: Server, **options: Any) -> Fetcher:
    return Fetcher(**{"allow": {server.place}, "seconds": 30.0, **options})


def page(body: bytes | str, content_type: str = "text/html", **headers: str) -> Any:
    return lambda request: request.reply(body, content_type=content_type, **headers)


def test_a_page_is_fetched_as_it_is(server: Server) -> None:
    server.answers["/a"] = page("<p>Größe</p>", "Text/HTML; charset=utf-8")
    fetched = fetcher(server, user_agent="tester").fetch(f"{server.url}/a?b=c d#e")
    assert (fetched.body, fetched.content_type, fetched.cut) == (
        "<p>Größe</p>".encode(),
        "text/html; charset=utf-8",
        False,
    )
    request = server.requests[0]
    assert request.path == "/a?b=c%20d" and request.headers["Host"] == server.place
    assert request.headers["User-Agent"] == "tester" and request.headers["Accept-Encoding"] == "gzip, deflate"
    assert not {"Cookie", "Authorization", "Referer"} & set(request.headers)


def test_the_loopback_is_refused_unless_it_is_allowed(server: Server) -> None:
    server.answers[""] = page("secret")
    with pytest.raises(ToolError, match="not public"):
        Fetcher().fetch(server.url)
    with pytest.raises(ToolError, match="not public"):
        fetcher(server, allow={f"127.0.0.1:{server.server_address[1] + 1}"}).fetch(server.url)
    assert not server.requests


def test_a_name_that_leads_to_the_loopback_is_refused(server: Server) -> None:
    server.answers[""] = page("secret")
    port = server.server_address[1]
    with pytest.raises(ToolError, match=r"'page\.example' leads to an address that is not public"):
        Fetcher(resolve=lambda *_: ["127.0.0.1"]).fetch(f"http://page.example:{port}/")
    with pytest.raises(ToolError, match="not public"):
        Fetcher(resolve=lambda *_: ["1.1.1.1", "127.0.0.1"]).fetch(f"http://page.example:{port}/")
    assert not server.requests


def test_a_name_that_changes_its_address_after_the_check_gains_nothing(server: Server) -> None:
    server.answers[""] = page("public")
    answers = iter([["127.0.0.1"], ["127.0.0.9"]])
    asked: list[str] = []

    def rebinding(host: str, port: int, seconds: float) -> list[str]:
        asked.append(host)
        return next(answers)

    fetched = fetcher(server, resolve=rebinding).fetch(f"http://page.example:{server.server_address[1]}/")
    assert fetched.body == b"public" and asked == ["page.example"]
    assert server.requests[0].headers["Host"] == f"page.example:{server.server_address[1]}"


def test_a_second_answer_that_is_private_is_refused_at_the_redirect_that_asks_for_it(server: Server) -> None:
    port = server.server_address[1]
    # The first connection is closed, so that the redirect needs another, and with it another look-up.
    server.answers["/"] = lambda request: request.reply(status=302, location="/secret", connection="close")
    server.answers["/secret"] = page("secret")
    answers = iter([["127.0.0.1"], ["127.0.0.9"]])
    with pytest.raises(ToolError, match="not public"):
        fetcher(server, resolve=lambda *_: next(answers)).fetch(f"http://page.example:{port}/")
    assert [request.path for request in server.requests] == ["/"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(server: Server, status: int) -> None:
    server.answers["/a/b"] = lambda request: request.reply(status=status, location="../c?d=ä")
    server.answers["/c"] = page("there")
    fetched = fetcher(server).fetch(f"{server.url}/a/b")
    assert fetched.body == b"there" and fetched.url == f"{server.url}/c?d=%C3%A4"


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:1/", "http://127.0.0.2:{port}/", "http://[::1]:{port}/", "//127.0.0.2:{port}/",
        "http://localhost:{port}/",
        "http://169.254.169.254/", "http://2130706433:{port}/", "file:///etc/passwd", "gopher://127.0.0.1:{port}/",
        "http://user@127.0.0.1:{port}/secret", "http://\\\\127.0.0.2", "javascript:alert(1)", "http://[", "http://%00/",
        "http://metadata.google.internal/", "https:///",
    ],
)  # fmt: skip
def test_a_redirect_is_checked_as_the_url_was(server: Server, location: str) -> None:
    target = location.replace("{port}", str(server.server_address[1]))
    server.answers["/a"] = lambda request: request.reply(status=302, location=target)
    server.answers[""] = page("secret")
    with pytest.raises(ToolError, match=r"^[^\n]*\.$"):
        fetcher(server).fetch(f"{server.url}/a")
    assert [request.path for request in server.requests] == ["/a"]


def test_redirects_end(server: Server) -> None:
    server.answers[""] = lambda request: request.reply(status=302, location=f"/{len(server.requests)}")
    with pytest.raises(ToolError, match="redirects more than 5 times"):
        fetcher(server).fetch(server.url)
    assert len(server.requests) == 6
    server.requests.clear()
    server.answers["/2"] = page("there")
    assert fetcher(server, redirects=2).fetch(server.url).body == b"there"


def test_a_redirect_without_a_target_is_a_status(server: Server) -> None:
    server.answers[""] = lambda request: request.reply(status=302)
    with pytest.raises(ToolError, match=r"status 302 \(Found\)"):
        fetcher(server).fetch(server.url)


@pytest.mark.parametrize(("status", "told"), [(404, r"404 \(Not Found\)"), (500, "500"), (799, "799"), (204, "204")])
def test_a_status_that_is_no_page_is_told(server: Server, status: int, told: str) -> None:
    server.answers[""] = lambda request: request.reply(status=status)
    with pytest.raises(ToolError, match=f"answered with status {told}"):
        fetcher(server).fetch(server.url)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xhtml+xml", "application/json; x=y", "application/rss+xml", ""]
)
def test_texts_are_read(server: Server, kind: str) -> None:
    server.answers[""] = page("text", kind)
    assert fetcher(server).fetch(server.url).body == b"text"


@pytest.mark.parametrize("kind", ["application/pdf", "image/png", "video/mp4", "application/octet-stream", "x" * 5000])
def test_other_kinds_are_refused_before_they_are_read(server: Server, kind: str) -> None:
    def endless(request: Request) -> None:
        request.send_response_only(200)
        request.send_header("Content-Type", kind)
        request.end_headers()
        server.released.wait()

    server.answers[""] = endless
    with pytest.raises(ToolError, match="only text can be read") as caught:
        fetcher(server).fetch(server.url)
    assert len(str(caught.value)) < 300


def test_a_page_that_is_too_long_is_cut(server: Server) -> None:
    server.answers[""] = page("0123456789" * 100)
    fetched = fetcher(server, max_bytes=999).fetch(server.url)
    assert fetched.cut and len(fetched.body) == 999
    assert not fetcher(server, max_bytes=1000).fetch(server.url).cut


def test_a_body_without_end_is_cut(server: Server) -> None:
    def endless(request: Request) -> None:
        request.send_response_only(200)
        request.end_headers()
        while True:
            request.wfile.write(b"x" * 65_536)

    server.answers[""] = endless
    fetched = fetcher(server, max_bytes=1_000_000).fetch(server.url)
    assert fetched.cut and len(fetched.body) == 1_000_000


def test_a_bomb_is_cut(server: Server) -> None:
    server.answers[""] = page(gzip.compress(bytes(100 * 1024 * 1024)), content_encoding="gzip")
    fetched = fetcher(server, max_bytes=1_000_000).fetch(server.url)
    assert fetched.cut and len(fetched.body) == 1_000_000


def test_packed_pages_are_unpacked(server: Server) -> None:
    server.answers[""] = page(gzip.compress(b"text"), content_encoding="gzip")
    assert fetcher(server).fetch(server.url).body == b"text"


def test_a_server_that_never_answers_is_given_up(server: Server) -> None:
    server.answers[""] = lambda request: server.released.wait() and None
    with pytest.raises(ToolError, match=r"did not answer within 0\.05 seconds"):
        fetcher(server, seconds=0.05).fetch(server.url)


@pytest.mark.parametrize("part", ["status", "headers", "body", "hints"])
def test_bytes_that_trickle_in_do_not_prolong_a_fetch(server: Server, part: str) -> None:
    """Each read gets something at once, so that no time-out of a read would ever end it."""

    def trickle(request: Request) -> None:
        if part == "hints":
            while not server.released.is_set():
                request.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        request.wfile.write({"status": b"HTTP/1.1 200 ", "headers": b"HTTP/1.1 200 OK\r\nX: "}.get(part, b""))
        if part == "body":
            request.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not server.released.wait(0.001):
            request.wfile.write(b"x")

    server.answers[""] = trickle
    with pytest.raises(ToolError, match="did not answer within"):
        fetcher(server, seconds=0.2).fetch(server.url)


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n", b"\x00\xff" * 500, b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000, b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000,
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nnot packed",
        b"HTTP/1.1 302 Found\r\nLocation: http://\xff\xfe\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ],
    ids=lambda answer: repr(answer[:50]),
)  # fmt: skip
def test_an_answer_that_is_no_http_is_one_sentence_in_our_words(server: Server, answer: bytes) -> None:
    def reply(request: Request) -> None:
        request.wfile.write(answer)
        request.close_connection = True

    server.answers[""] = reply
    with pytest.raises(ToolError, match=r"^[^\n\x00-\x1f]*\.$") as caught:
        fetcher(server).fetch(server.url)
    assert "SSH" not in str(caught.value)


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    with socket.socket() as bound:  # a port that is taken and does not listen
        bound.bind(("127.0.0.1", 0))
        place = "{}:{}".format(*bound.getsockname())
        with pytest.raises(ToolError, match="it refuses the connection"):
            Fetcher(allow={place}, seconds=30).fetch(f"http://{place}/")


def test_proxies_of_the_environment_are_not_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers[""] = page("text")
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert fetcher(server).fetch(server.url).body == b"text"


def test_a_proxy_that_is_given_is_asked_for_names_but_not_for_private_addresses(server: Server) -> None:
    server.answers[""] = page("by proxy")
    client = Fetcher(proxy=server.url, seconds=30)
    assert client.fetch("http://page.example/a").body == b"by proxy"
    assert server.requests[0].path == "http://page.example/a"
    with pytest.raises(ToolError, match="not public"):
        client.fetch("http://169.254.169.254/")
    assert len(server.requests) == 1
    with pytest.raises(ConfigError, match="is no address"):
        Fetcher(proxy="127.0.0.1:3128")


def test_many_threads_fetch_at_once(server: Server) -> None:
    server.answers[""] = lambda request: page(request.path)(request)
    client = fetcher(server)
    bodies: list[bytes] = []
    threads = [
        threading.Thread(target=lambda n=n: bodies.append(client.fetch(f"{server.url}/{n}").body)) for n in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(bodies) == sorted(b"/%d" % number for number in range(16))


# -- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of page.example, with its key in the same file."""
    if which("openssl") is None:
        pytest.skip("openssl, which makes the certificate of the test, is not installed")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=page.example", "-addext", "subjectAltName=DNS:page.example", "-keyout", "key", "-out", "cert"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    (folder / "both").write_bytes((folder / "key").read_bytes() + (folder / "cert").read_bytes())
    return folder / "both"


@pytest.fixture
def secure(server: Server, certificate: Path) -> Server:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.names = []  # type: ignore[attr-defined]
    context.sni_callback = lambda _, name, __: server.names.append(name)  # type: ignore[attr-defined]
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.answers[""] = page("over tls")
    return server


def test_https_goes_to_the_checked_address_under_the_name_of_the_url(secure: Server, certificate: Path) -> None:
    client = fetcher(
        secure, resolve=lambda *_: ["127.0.0.1"], ssl_context=ssl.create_default_context(cafile=str(certificate))
    )
    assert client.fetch(f"https://page.example:{secure.server_address[1]}/").body == b"over tls"
    assert secure.names == ["page.example"]  # type: ignore[attr-defined]
    with pytest.raises(ToolError, match="certificate is not trusted"):
        client.fetch(f"https://other.example:{secure.server_address[1]}/")


def test_a_certificate_of_nobody_is_not_trusted(secure: Server) -> None:
    with pytest.raises(ToolError, match="certificate is not trusted"):
        fetcher(secure, resolve=lambda *_: ["127.0.0.1"]).fetch(f"https://page.example:{secure.server_address[1]}/")
    assert not secure.requests


def test_https_that_speaks_no_tls_is_one_sentence(server: Server) -> None:
    server.answers[""] = page("plain")
    with pytest.raises(ToolError, match="the connection failed"):
        fetcher(server).fetch(f"https://{server.place}/")


def test_a_handshake_that_never_ends_is_given_up() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        place = "{}:{}".format(*silent.getsockname())
        with pytest.raises(ToolError, match="did not answer within"):
            Fetcher(allow={place}, seconds=0.05).fetch(f"https://{place}/")
