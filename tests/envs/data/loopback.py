"""A small HTTP server on this machine that can be told to misbehave."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What is served, and how."""

    content: bytes = b""
    etag: str = '"one"'
    """Sent as ETag; empty sends none."""
    modified: str = ""
    ranges: bool = True
    """Whether parts are served."""
    heeds_if_range: bool = True
    cuts: list[int] = field(default_factory=list)
    """After how many bytes each of the next answers breaks off."""
    statuses: list[int] = field(default_factory=list)
    """Codes with which the next requests are refused."""
    redirect: str = ""
    """A path that sends on to the content."""
    asked: list[str] = field(default_factory=list)
    """The Range header of each request so far, empty where it had none."""
    served: list[int] = field(default_factory=list)
    """The bytes that were sent as answer to each."""
    url: str = ""


@contextmanager
def serving(content: bytes) -> Iterator[Site]:
    """Serve content at `site.url` for as long as the block runs."""
    site = Site(content)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self, site)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}/games.zip"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(handler: BaseHTTPRequestHandler, site: Site) -> None:
    if site.redirect and handler.path == site.redirect:
        handler.send_response(302)
        handler.send_header("Location", site.url)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    asked = handler.headers.get("Range", "")
    site.asked.append(asked)
    site.served.append(0)
    if site.statuses:
        handler.send_response(site.statuses.pop(0))
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    condition = handler.headers.get("If-Range", "")
    same = not site.heeds_if_range or condition in (site.etag, site.modified)
    start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and site.ranges and same else 0
    if start > len(site.content):
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(site.content)}")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    body = site.content[start:]
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
    if site.etag:
        handler.send_header("ETag", site.etag)
    if site.modified:
        handler.send_header("Last-Modified", site.modified)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    body = body[: site.cuts.pop(0)] if site.cuts else body
    # Before the client can have it all: a test looks as soon as its download has returned.
    site.served[-1] = len(body)
    handler.wfile.write(body)
