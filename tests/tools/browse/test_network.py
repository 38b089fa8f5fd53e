"""Connections go to the address that was checked, and end at the deadline."""

import socket
import threading

import httpcore
import pytest
from loopback import serving

from agent_gym.errors import ToolError
from agent_gym.tools.browse import Guard
from agent_gym.tools.browse.network import Deadline, GuardedNetwork, resolve_host


class Names:
    """Answers each look-up with the next of its answers."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int, seconds: float) -> list[str]:
        self.asked.append((host, port))
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


def network(names: Names, **allow: set[str]) -> GuardedNetwork:
    return GuardedNetwork(Deadline(30), Guard(**allow), names)


def test_a_deadline_is_for_everything_together() -> None:
    now = [0.0]
    deadline = Deadline(10, clock=lambda: now[0])
    assert deadline.left() == 10 and deadline.left(3) == 3
    now[0] = 8
    assert deadline.left(3) == 2
    now[0] = 10
    with pytest.raises(httpcore.TimeoutException):
        deadline.left()


def test_a_name_is_looked_up_once_and_its_address_connected_to() -> None:
    with serving({}) as server:
        names = Names(["127.0.0.1"], ["10.0.0.1"])
        stream = network(names, allow={server.place}).connect_tcp("page.example", server.server_address[1])
        assert stream.get_extra_info("server_addr") == server.server_address
        stream.close()
        assert len(names.asked) == 1


@pytest.mark.parametrize("answer", [["127.0.0.1"], ["93.184.215.14", "127.0.0.1"], ["::1"], ["::ffff:10.0.0.1"], ["x"]])
def test_one_address_that_is_not_public_is_enough_to_refuse(answer: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    connected: list[object] = []
    monkeypatch.setattr(socket, "create_connection", lambda *args, **options: connected.append(args))
    with pytest.raises(ToolError, match="not public"):
        network(Names(answer)).connect_tcp("page.example", 80)
    assert not connected


def test_a_name_without_addresses_is_a_sentence() -> None:
    with pytest.raises(ToolError, match="has no address"):
        network(Names([])).connect_tcp("page.example", 80)


def test_the_next_address_is_tried_when_one_refuses() -> None:
    with serving({}) as server, socket.socket() as closed:
        closed.bind(("127.0.0.2", 0))  # bound but not listening at the server's port: refused
        port = server.server_address[1]
        allow = {server.place, f"127.0.0.2:{port}"}
        stream = network(Names(["127.0.0.2", "127.0.0.1"]), allow=allow).connect_tcp("page.example", port)
        assert stream.get_extra_info("server_addr") == server.server_address
        stream.close()


def test_names_are_looked_up_by_the_system() -> None:
    assert resolve_host("127.0.0.1", 80, 30) == ["127.0.0.1"]
    assert "127.0.0.1" in resolve_host("localhost", 80, 30)
    for host in ("no-such-host.invalid", "a" * 300, "a..b", "\ud800"):
        with pytest.raises(ToolError, match="is not known"):
            resolve_host(host, 80, 30)


def test_a_name_service_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def never(*args: object, **options: object) -> list[object]:
        released.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", never)
    try:
        with pytest.raises(httpcore.TimeoutException):
            resolve_host("page.example", 80, 0.02)
    finally:
        released.set()
