"""Which addresses may be opened: a table of attacks, and of what must still work."""

import pytest

from agent_gym.errors import ConfigError, ToolError
from agent_gym.tools.browse import Guard
from agent_gym.tools.browse.guard import is_public

REFUSED = [
    # loopback and this host, in the usual form and in odd ones
    "http://127.0.0.1/", "http://127.0.0.1:80/", "http://127.8.9.10/", "http://127.1/", "http://127.0.1/",
    "http://2130706433/", "http://0x7f000001/", "http://0x7f.0.0.1/", "http://0x7f.1/", "http://017700000001/",
    "http://0177.0.0.1/", "http://127.0.0.01/", "http://127.0.0.1./", "http://0/", "http://0.0.0.0/", "http://0.1.2.3/",
    "http://1/", "http://127.0.0.0x1/", "http://0x/", "http://256.256.256.256/", "http://1.2.3.4.5/", "http://1.1/",
    "http://127\u30020\u30020\u30021/", "http://\uff11\uff12\uff17.0.0.1/", "http://\u2460\u2461\u2466.0.0.1/",
    "http://[::1]/", "http://[::]/", "http://[0:0:0:0:0:0:0:1]/", "http://[::1]:8080/",
    "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "http://[::127.0.0.1]/", "http://[0:0:0:0:0:ffff:7f00:1]/",
    # private and shared networks
    "http://10.0.0.1/", "http://172.16.0.1/", "http://172.31.255.255/", "http://192.168.1.1/", "http://100.64.0.1/",
    "http://100.127.255.254/", "http://[fc00::1]/", "http://[fd12:3456::1]/", "http://[fec0::1]/",
    "http://[::ffff:192.168.1.1]/",
    # link-local, and what hands out the credentials of a cloud machine
    "http://169.254.169.254/latest/meta-data/", "http://169.254.0.1/", "http://[fe80::1]/", "http://[fe80::1%25eth0]/",
    "http://100.100.100.200/", "http://192.0.0.192/", "http://168.63.129.16/", "http://[fd00:ec2::254]/",
    "http://metadata.google.internal/", "http://2852039166/", "http://0xa9fea9fe/",
    # multicast, broadcast, reserved, documentation, benchmarks
    "http://224.0.0.1/", "http://239.255.255.250/", "http://255.255.255.255/", "http://240.0.0.1/", "http://192.0.2.1/",
    "http://198.51.100.1/", "http://203.0.113.1/", "http://198.18.0.1/", "http://[ff02::1]/", "http://[2001:db8::1]/",
    "http://[3fff::1]/", "http://[100::1]/", "http://[4000::1]/",
    # addresses inside of addresses
    "http://[64:ff9b::127.0.0.1]/", "http://[64:ff9b::a9fe:a9fe]/", "http://[64:ff9b:1::1]/", "http://[2002:7f00:1::]/",
    "http://[2002:c0a8:101::1]/", "http://[2001:0:4136:e378:8000:63bf:80ff:fffe]/", "http://[::ffff:0:127.0.0.1]/",
    "http://192.88.99.1/",
    # names
    "http://localhost/", "http://LOCALHOST/", "http://localhost./", "http://a.localhost/", "http://printer.local/",
    "http://db.internal/", "http://\u24dbocalhost/", "http://loc\u00adalhost/", "http://lo\u200bcalhost/",
    # who is meant?
    "http://example.com@127.0.0.1/", "http://user:password@example.com/", "http://example.com:80@127.0.0.1/",
    "http://127.0.0.1#@example.com/", "http://127.0.0.1?@example.com/", "http://example.com\\@127.0.0.1/",
    "http://127.0.0.1\\.example.com/", "http://a@b@127.0.0.1/", "http://example.com\t/", "http://exam\nple.com/",
    "http://127.0.0.1%2f.example.com/", "http://127.0.0.1%00.example.com/", "http://ex%61mple.com/",
    "http://exa mple.com/",
    # not the web, or nothing at all
    "file:///etc/passwd", "file:/etc/passwd", "ftp://example.com/", "gopher://example.com:70/_x", "javascript:alert(1)",
    "data:text/html,x", "dict://example.com:11211/", "ws://example.com/", "about:blank", "view-source:http://example.com",
    "//example.com/", "/etc/passwd", "", "http://", "http:///x", "http:example.com", "http://:80/", "http://[::1",
    "http://example.com:0/", "http://example.com:99999/", "http://example.com:port/", "http://.example.com/",
    "http://example..com/", f"http://{'a' * 64}.com/", f"http://{'a.' * 130}com/", "http://example.com/\x00",
    "https://" + "x" * 100_000, "localhost:8080", "cats", "http://exa_mple!.com/", "http://{}.com/",
]  # fmt: skip

ADMITTED = {
    "http://example.com/": "http://example.com/",
    "https://example.com:8443/a?b=c#d": "https://example.com:8443/a?b=c#d",
    "example.com": "https://example.com",
    "en.wikipedia.org/wiki/Cat_(animal)?action=raw": "https://en.wikipedia.org/wiki/Cat_(animal)?action=raw",
    "  HTTP://EXAMPLE.COM/Path ": "http://example.com/Path",
    "https://bücher.de/ä": "https://xn--bcher-kva.de/%C3%A4",
    "https://例え.jp/": "https://xn--r8jz45g.jp/",
    "https://example.com./": "https://example.com./",
    "https://en.wikipedia.org/wiki/Ada Lovelace": "https://en.wikipedia.org/wiki/Ada%20Lovelace",
    "http://1.1.1.1/": "http://1.1.1.1/",
    "http://[2606:4700:4700::1111]/": "http://[2606:4700:4700::1111]/",
    "http://[64:ff9b::101:101]/": "http://[64:ff9b::101:101]/",
    "http://172.32.0.1/": "http://172.32.0.1/",
    "http://100.128.0.1/": "http://100.128.0.1/",
    "http://localhost.example.com/": "http://localhost.example.com/",
    "http://my_host.example.com/": "http://my_host.example.com/",
    "http://7.example7.com/": "http://7.example7.com/",
}


@pytest.mark.parametrize("url", REFUSED, ids=lambda url: ascii(url)[:60])
def test_what_is_not_of_the_public_web_is_refused_in_one_sentence(url: str) -> None:
    with pytest.raises(ToolError, match=r"^[^\n]{10,400}\.$"):
        Guard().check_url(url)


@pytest.mark.parametrize("url", ADMITTED)
def test_what_is_of_the_public_web_is_admitted(url: str) -> None:
    checked = Guard().check_url(url)
    assert f"{checked.scheme}://{checked.netloc.decode()}{checked.raw_path.decode()}".rstrip("/") == (
        ADMITTED[url].partition("#")[0].rstrip("/")
    )


@pytest.mark.parametrize(
    "address", ["", "cats", "127.1", "1.1.1.1 ", "fe80::1%eth0", "2606:4700::1%eth0", "::ffff:0:0"]
)
def test_an_answer_of_the_name_service_that_is_no_public_address_is_not_public(address: str) -> None:
    assert not is_public(address)


def test_every_edge_of_the_closed_networks_is_closed_and_its_neighbours_are_not() -> None:
    edges = [
        ("9.255.255.255", "10.0.0.0"), ("11.0.0.0", "10.255.255.255"), ("100.63.255.255", "100.64.0.0"),
        ("172.15.255.255", "172.16.0.0"), ("172.32.0.0", "172.31.255.255"), ("192.167.255.255", "192.168.0.0"),
        ("169.253.255.255", "169.254.0.0"), ("223.255.255.255", "224.0.0.0"), ("126.255.255.255", "127.0.0.0"),
        ("128.0.0.0", "127.255.255.255"), ("2001:200::", "2001:1ff:ffff::"), ("2003::", "2002:ffff::"),
    ]  # fmt: skip
    for public, closed in edges:
        assert is_public(public) and not is_public(closed), (public, closed)


def test_exactly_one_place_is_allowed() -> None:
    guard = Guard(allow={"127.0.0.1:8000", "wiki.intranet:443", "[::1]:8080", "localhost:81"})
    for url in ("http://127.0.0.1:8000/x", "https://wiki.intranet/", "http://[::1]:8080/", "http://localhost:81/"):
        guard.check_url(url)
    for url in ("http://127.0.0.1:8001/", "http://127.0.0.1/", "http://127.0.0.2:8000/", "http://[::1]/",
                "http://localhost:80/", "http://127.1:8000/", "http://127.0.0.1:8000@127.0.0.2/"):  # fmt: skip
        with pytest.raises(ToolError):
            guard.check_url(url)
    guard.check_address("10.0.0.7", "wiki.intranet", 443)
    guard.check_address("127.0.0.1", "anything.example", 8000)
    with pytest.raises(ToolError):
        guard.check_address("10.0.0.7", "wiki.intranet", 80)
    with pytest.raises(ToolError):
        guard.check_address("10.0.0.7", "other.intranet", 443)


def test_ports_can_be_limited() -> None:
    guard = Guard(ports={80, 443})
    guard.check_url("https://example.com/")
    with pytest.raises(ToolError, match="port"):
        guard.check_url("https://example.com:8443/")


@pytest.mark.parametrize("entry", ["127.0.0.1", "intranet", ":80", "intranet:", "http://intranet/"])
def test_an_entry_without_a_port_allows_nothing_and_says_so(entry: str) -> None:
    with pytest.raises(ConfigError, match="write host:port"):
        Guard(allow={entry})


def test_the_private_address_behind_a_name_is_not_told() -> None:
    with pytest.raises(ToolError) as caught:
        Guard().check_address("10.1.2.3", "db.example.com", 80)
    assert "10.1.2.3" not in str(caught.value) and "db.example.com" in str(caught.value)
