"""Bodies are unpacked within a limit and decoded in the right character set."""

import gzip
import zlib

import pytest

from agent_gym.errors import ToolError
from agent_gym.tools.browse.decoding import Unpacker, decode, looks_binary


def unpack(body: bytes, encoding: str, limit: int = 10_000, piece: int = 7) -> Unpacker:
    unpacker = Unpacker(encoding, limit)
    for at in range(0, len(body), piece):
        if unpacker.full:
            break
        unpacker.feed(body[at : at + piece])
    return unpacker


@pytest.mark.parametrize("piece", [1, 7, 1_000_000])
def test_each_way_of_packing_is_unpacked(piece: int) -> None:
    text = b"some text that repeats itself, some text that repeats itself" * 20
    raw = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = {
        "": text,
        "identity": text,
        "gzip": gzip.compress(text),
        "x-gzip": gzip.compress(text[:500]) + gzip.compress(text[500:]),
        " GZip ": gzip.compress(text) + b"\0\0 what browsers throw away",
        "deflate": zlib.compress(text),
    }
    for encoding, body in packed.items():
        unpacker = unpack(body, encoding, piece=piece)
        assert bytes(unpacker.body) == text and not unpacker.full, encoding
    bare = raw.compress(text) + raw.flush()
    assert bytes(unpack(bare, "deflate", piece=1_000_000).body) == text


@pytest.mark.parametrize("encoding", ["", "gzip", "deflate"])
def test_a_body_is_cut_at_the_limit_exactly(encoding: str) -> None:
    text = b"0123456789" * 1000
    body = {"": text, "gzip": gzip.compress(text), "deflate": zlib.compress(text)}[encoding]
    for limit in (1, 9_999):
        unpacker = unpack(body, encoding, limit)
        assert bytes(unpacker.body) == text[:limit] and unpacker.full
    unpacker = unpack(body, encoding, 10_000)
    assert bytes(unpacker.body) == text and not unpacker.full


def test_a_bomb_costs_no_more_memory_than_the_limit() -> None:
    import tracemalloc

    bomb = gzip.compress(bytes(200 * 1024 * 1024))
    tracemalloc.start()
    try:
        unpacker = unpack(bomb, "gzip", limit=1_000_000, piece=65_536)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert unpacker.full and len(unpacker.body) == 1_000_000 and peak < 10_000_000


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "x" * 1000])
def test_another_way_of_packing_is_refused(encoding: str) -> None:
    with pytest.raises(ToolError, match="cannot be unpacked"):
        Unpacker(encoding, 100)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_damaged_body_is_a_sentence(encoding: str) -> None:
    with pytest.raises(ToolError, match="damaged"):
        unpack(b"this is not packed at all", encoding)
    body = bytearray(gzip.compress(bytes(range(256)) * 20))
    body[40:60] = bytes(20)
    with pytest.raises(ToolError, match="damaged"):
        unpack(bytes(body), encoding)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("Größe".encode("latin-1"), "text/html; charset=ISO-8859-1"),
        ("Größe".encode("latin-1"), 'text/html; Charset = "latin1"'),
        (b'<meta charset="windows-1252">' + "Größe".encode("cp1252"), "text/html"),
        (b"<META http-equiv=Content-Type content='text/html; charset=iso-8859-15'>" + "Größe".encode("latin-1"), ""),
        ("Größe".encode("utf-16"), "text/plain; charset=latin-1"),
        (b"\xef\xbb\xbf" + "Größe".encode(), "text/html; charset=latin-1"),
        ("Größe".encode(), ""),
        ("Größe".encode(), "text/html; charset=no-such-set"),
        ("Größe".encode(), "text/html; charset=punycode"),
        ("Größe".encode(), "text/html; charset=utf-7"),
        ("Größe".encode(), "text/html; charset=unicode_escape"),
        ("Größe".encode(), "text/html; charset=zlib_codec"),
    ],
)
def test_the_character_set_is_found(body: bytes, content_type: str) -> None:
    assert decode(body, content_type).endswith("Größe")


@pytest.mark.parametrize("charset", ["gb2312", "gb18030", "big5"])
def test_chinese_sets_are_known(charset: str) -> None:
    assert decode("故宮博物院".replace("宮", "山").encode(charset), f"text/html; charset={charset}") == "故山博物院"


def test_a_set_that_is_not_said_is_guessed() -> None:
    pytest.importorskip("charset_normalizer", reason="charset_normalizer is not installed")
    text = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 20
    assert decode(text.encode("cp1251"), "text/html").startswith("Съешь же")


def test_what_cannot_be_decoded_is_replaced() -> None:
    assert decode(b"a\xff\xfeb", "text/html; charset=utf-8") == "a\ufffd\ufffdb"


def test_binary_is_told_from_text() -> None:
    assert looks_binary(decode(bytes(range(256)) * 10, "text/html; charset=utf-8"))
    assert looks_binary("\x00\x01" * 100)
    assert not looks_binary("") and not looks_binary("Größe\n\t北京" * 100)
