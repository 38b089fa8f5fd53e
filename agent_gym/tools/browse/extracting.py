"""Takes the readable text out of pages in processes of their own.

The parser is a C library and the rest is Python that a page can make slow: whatever a page does to it, a crash, a
memory that overflows or a time that does not end, only costs that process. Knows nothing of the web.
"""

import contextlib
import json
import logging
import os
import queue
import socket
import struct
import subprocess
import sys
import time
from importlib.util import find_spec

from agent_gym.errors import MissingExtraError

_logger = logging.getLogger(__name__)
_FEATURE = "Reading web pages"
_START_SECONDS = 60.0
"""A first import may have to wait for a slow disk."""
_MOST_BYTES = 64 * 1024 * 1024


class Extractor:
    """Runs trafilatura on pages; safe to call from many threads.

    Args:
        workers: Processes, each started when it is first needed; it ends with this object or with this process.
        seconds: Time for one page, that of waiting for a process not counted.

    Raises:
        MissingExtraError: trafilatura is not installed.
    """

    def __init__(self, workers: int = 2, seconds: float = 6.0) -> None:
        if find_spec("trafilatura") is None:
            raise MissingExtraError.of("search", _FEATURE)
        self._seconds = seconds
        # The last that was given back is taken first, so that no more processes start than are needed at once.
        self._free: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(max(workers, 1)):
            self._free.put(None)

    def extract(self, source: str) -> str:
        """Return the main text of a page; nothing where there is none, or where it cannot be found in time.

        Args:
            source: The HTML.

        Raises:
            MissingExtraError: trafilatura, or something that it needs, is not installed.
        """
        try:
            worker = self._free.get(timeout=self._seconds)
        except queue.Empty:
            return ""
        try:
            if worker is not None and not worker.alive:
                worker.end()
                worker = None
            worker = worker or _Worker()
            return worker.extract(source, self._seconds)
        except (OSError, ValueError) as error:  # it died, took too long, or answered with something else
            _logger.info("The main text of a page cannot be found: %s.", error)
            if worker is not None:
                worker.end()
            worker = None
            return ""
        finally:
            self._free.put(worker)

    def close(self) -> None:
        """End the processes that have nothing to do; they would end with this process anyway."""
        for _ in range(self._free.qsize()):
            with contextlib.suppress(queue.Empty):
                worker = self._free.get_nowait()
                if worker is not None:
                    worker.end()
                self._free.put(None)


class _Worker:
    """One process; see `agent_gym.tools.browse.extracting_process`."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START.format(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # What reads hostile pages is told no keys.
                env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,
            )
        self._owner = os.getpid()
        try:
            ready = self._receive(_START_SECONDS)
        except BaseException:
            self.end()
            raise
        if ready != {"ready": True}:
            self.end()
            raise MissingExtraError.of("search", _FEATURE)

    @property
    def alive(self) -> bool:
        """Whether it can be asked; a process that this one was forked from keeps its own."""
        return self._owner == os.getpid() and self._process.poll() is None

    def extract(self, source: str, seconds: float) -> str:
        self._channel.settimeout(seconds)
        data = source.encode("utf-8", "replace")
        self._channel.sendall(struct.pack("!If", len(data), seconds) + data)
        text = self._receive(seconds).get("text")
        if not isinstance(text, str):
            raise ValueError("an answer without text")
        return text

    def end(self) -> None:
        self._channel.close()
        if self._owner == os.getpid():
            self._process.kill()
            self._process.wait()

    def _receive(self, seconds: float) -> dict[str, object]:
        end = time.monotonic() + seconds
        size = struct.unpack("!I", self._exactly(4, end))[0]
        if size > _MOST_BYTES:
            raise ValueError("an answer that is too long")
        answer = json.loads(self._exactly(size, end))
        if not isinstance(answer, dict):
            raise ValueError("an answer in another format")
        return answer

    def _exactly(self, size: int, end: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._channel.settimeout(max(end - time.monotonic(), 0.001))
            piece = self._channel.recv(min(size - len(data), 1 << 20))
            if not piece:
                raise ConnectionError("the process has ended")
            data += piece
        return bytes(data)


_START = "from agent_gym.tools.browse.extracting_process import main; main({})"
