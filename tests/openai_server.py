"""A server that speaks OpenAI's protocol as well or as badly as a test wants: real HTTP on the loopback.

What it does is decided by the request and its number alone, so that nothing has to sleep.
"""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

MODEL = "small-model"


@dataclass
class Reply:
    """What the server does with a request."""

    body: Any = None
    """JSON, or bytes as they are."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    hangs: bool = False
    """Never answers."""
    cut: bool = False
    """Closes the connection in the middle of the body."""


@dataclass
class Asked:
    """A request that came."""

    path: str
    headers: dict[str, str]
    body: Any


Answers = Callable[[Asked, int], Reply]


def chat(text: str | None, *, finish: str = "stop", usage: tuple[int, int] | None = (10, 3), **message: Any) -> Reply:
    """Return the answer of a chat that says `text`; what else is given belongs to the message or the choice."""
    outside = {name: message.pop(name) for name in ("logprobs", "stop_reason") if name in message}
    choice = {"index": 0, "finish_reason": finish, **outside}
    return answered({**choice, "message": {"role": "assistant", "content": text, **message}}, usage)


def completion(text: str, *, finish: str = "stop", usage: tuple[int, int] | None = (10, 3), **choice: Any) -> Reply:
    """Return the answer of a completion."""
    return answered({"index": 0, "finish_reason": finish, "text": text, **choice}, usage)


def answered(choice: Any, usage: tuple[int, int] | None = (10, 3)) -> Reply:
    counts = {"usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]}} if usage else {}
    return Reply({"id": "1", "model": MODEL + "-served", "choices": [choice], **counts})


def refused(status: int, message: str, **error: Any) -> Reply:
    headers = error.pop("headers", {})
    return Reply({"error": {"message": message, **error}}, status, headers)


def models(*names: str, **more: Any) -> Reply:
    return Reply({"object": "list", "data": [{"id": name, **more} for name in names]})


class FakeServer:
    """The server while it runs.

    Args:
        answers: Says what to do with a request that is not for /models, by its number from 0.
        listed: What it says to /models.
        latency: Seconds that each answer takes; for benchmarks.
    """

    def __init__(self, answers: Answers, listed: Reply | None = None, latency: float = 0.0) -> None:
        self.answers = answers
        self.listed = models(MODEL) if listed is None else listed
        self.latency = latency
        self.asked: list[Asked] = []
        """All but those for /models."""
        self.connections = self.in_flight = self.most_in_flight = 0
        self.hanging = 0
        """Requests that are not answered, while their client is still there."""
        self.url = ""

    async def serve(self, started: Callable[[str], None], stop: asyncio.Event) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        started(self.url)
        await stop.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._answer(reader, writer):
                pass
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        path = head[0].split()[1].removeprefix("/v1")
        if path == "/models":
            reply = self.listed
        else:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self.asked.append(asked := Asked(path, headers, json.loads(body) if body else None))
            reply = self.answers(asked, len(self.asked) - 1)
            if self.latency:
                await asyncio.sleep(self.latency)
            self.in_flight -= 1
        if reply.hangs:
            self.hanging += 1
            await reader.read()
            self.hanging -= 1
            return False
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        lines = {"Content-Length": str(len(content)), "Content-Type": "application/json", **reply.headers}
        head_out = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(f"HTTP/1.1 {reply.status} Said\r\n{head_out}\r\n".encode())
        writer.write(content[: len(content) // 2] if reply.cut else content)
        await writer.drain()
        return not reply.cut


@contextmanager
def serving(answers: Answers, listed: Reply | None = None, latency: float = 0.0) -> Iterator[FakeServer]:
    """Run a server in a thread for the time of the block."""
    server = FakeServer(answers, listed, latency)
    ready = threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def work() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(server.serve(lambda _: ready.set(), stop))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    ready.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
