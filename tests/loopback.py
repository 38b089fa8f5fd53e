"""A small web server on the loopback, for tests of what speaks HTTP: it answers as a table of functions says."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """A request as an answer sees it: path, headers, body, and `wfile` to write whatever a server may write."""

    server: "Server"
    body = b""

    def reply(self, body: bytes | str = b"", status: int = 200, **headers: str) -> None:
        """Send a whole answer; `content_type="text/html"` is the header Content-Type."""
        data = body.encode() if isinstance(body, str) else body
        self.send_response_only(status)
        for name, value in {"content_length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(self)
        try:
            self.server.answer(self.path.partition("?")[0])(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_POST = do_GET  # noqa: N815 - the name that the standard library calls

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Answers each path by its function; the function of "" answers the others."""

    daemon_threads = True

    def __init__(self, answers: dict[str, Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.answers = answers
        self.requests: list[Request] = []
        self.released = threading.Event()
        """What an answer that must not end waits for; set when the test is over."""

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.place}"

    def answer(self, path: str) -> Answer:
        return self.answers.get(path) or self.answers.get("") or (lambda request: request.reply(status=404))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what some of the tests are about."""


@contextmanager
def serving(answers: dict[str, Answer]) -> Iterator[Server]:
    """Run a server for the time of the block."""
    server = Server(answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
