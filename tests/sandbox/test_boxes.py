"""The host's side of a box takes any answer for a result or for the loss of the box, and nothing else."""

import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_gym.errors import ConfigError
from agent_gym.sandbox import Files, Limits, Result, Sandbox
from agent_gym.sandbox.box_session import read, write
from agent_gym.sandbox.boxes import Box
from agent_gym.sandbox.channels import BoxLost
from agent_gym.sandbox.inside import frames


class Script:
    """A channel on which everything is said beforehand."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    def send(self, data: bytes, descriptors: Sequence[int], deadline: float) -> None:
        pass

    def receive(self, deadline: float) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    def close(self) -> None:
        pass


USES: dict[str, Callable[[Box], Any]] = {
    "run": lambda box: box.run(b"1", "python", b"", 1.0, echo=True),
    "write": lambda box: write(box, {"a": b"x"}),
    "read": lambda box: read(box, ["**"]),
    "greet": lambda box: box.greet(),
}
KEYS = ("status", "out", "exit", "seconds", "cpu", "dropped", "restarted", "failed", "why", "complete", "hello")
VALUES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(["ok", "died"])),
    st.lists(st.integers(), max_size=2),
)
ANSWERS = st.dictionaries(st.sampled_from(KEYS), VALUES)


@pytest.mark.parametrize("use", USES)
@given(answer=ANSWERS, payload=st.binary(max_size=40))
def test_an_answer_without_sense_is_the_loss_of_the_box(use: str, answer: dict[str, Any], payload: bytes) -> None:
    head = json.dumps({"id": 1, **answer}).encode()
    box = Box(Script(struct.pack(">II", len(head), len(payload)) + head + payload), Limits())
    try:
        result = USES[use](box)
    except (BoxLost, ConfigError):
        return
    assert result is None or isinstance(result, Result | Files)
    if isinstance(result, Result):
        assert result.stdout + result.stderr == payload or answer["out"] not in range(len(payload) + 1)
        assert isinstance(result.seconds, float) and isinstance(result.exit_code, int | None)


@pytest.mark.parametrize("use", USES)
@given(noise=st.lists(st.binary(max_size=40), max_size=3))
def test_noise_is_the_loss_of_the_box(use: str, noise: list[bytes]) -> None:
    with pytest.raises(BoxLost):
        USES[use](Box(Script(*noise), Limits()))


def test_a_claim_that_is_too_long_is_not_waited_for() -> None:
    box = Box(Script(struct.pack(">II", 10, (1 << 32) - 1), b"x" * 1000), Limits())
    with pytest.raises(BoxLost, match="too long"):
        USES["run"](box)


def test_an_answer_to_another_request_is_no_answer() -> None:
    box = Box(Script(frames.pack({"id": 7, "complete": True})), Limits())
    with pytest.raises(BoxLost, match="another request"):
        USES["read"](box)


def test_more_input_than_can_go_in_is_refused_before_anything_runs(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        for call in (sandbox.run, session.run):
            with pytest.raises(ConfigError, match="give larger input as files"):
                call("1", stdin=bytes(33 << 20))
        read_all = "import sys; print(len(sys.stdin.buffer.read()))"
        assert session.run(read_all, stdin=bytes(31 << 20)).stdout == f"{31 << 20}\n".encode()
