"""Messages between processes that do not trust each other."""

import contextlib
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_gym.sandbox.inside.frames import FrameError, Reader, pack

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), VALUES, max_size=5), st.binary(max_size=200), st.integers(1, 7))
def test_what_is_packed_is_read_in_whatever_pieces_it_comes(message: dict, payload: bytes, size: int) -> None:  # type: ignore[type-arg]
    data = pack(message, payload) + pack({"next": 1})
    reader = Reader(longest=1000)
    found = [frame for start in range(0, len(data), size) for frame in reader.feed(data[start : start + size])]
    assert found == [(message, payload), ({"next": 1}, b"")]


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_the_head_is_json(message: dict) -> None:  # type: ignore[type-arg]
    assert json.loads(pack(message)[8:]) == message


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_raise_a_frame_error(data: bytes) -> None:
    for start in (b"", struct.pack(">II", max(0, len(data) - 1), 0), struct.pack(">II", len(data), 0)):
        with contextlib.suppress(FrameError):
            list(Reader(longest=100).feed(start + data))


@pytest.mark.parametrize(
    "head",
    [b"[1]", b"1", b"", b"{} {}", b"{", b'{"a": nope}', b"\xff", b"[" * 100_000, b'{"a": ' * 50_000],
    ids=lambda head: repr(head[:10]),
)
def test_a_head_that_is_no_object_is_refused(head: bytes) -> None:
    with pytest.raises(FrameError):
        list(Reader(longest=10).feed(struct.pack(">II", len(head), 0) + head))


@pytest.mark.parametrize("lengths", [(1 << 31, 0), (2, 11), (0xFFFFFFFF, 0xFFFFFFFF)])
def test_a_length_that_is_too_great_is_refused_before_anything_is_waited_for(lengths: tuple[int, int]) -> None:
    with pytest.raises(FrameError, match="too long"):
        list(Reader(longest=10).feed(struct.pack(">II", *lengths)))
