"""The child's side of `agent_gym.envs.host`: imports, forks, makes an object and calls its methods.

Three kinds of processes run this file. The template imports a module and forks. A host has an object. Between a host
and its twin there is, for a moment, a third that exits at once, so that the twin becomes a child of the template,
which outlives all hosts and collects those that have ended.
"""

import contextlib
import ctypes
import gc
import importlib
import os
import pickle
import signal
import socket
import sys
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

from agent_gym.registry import resolve

_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE_SECONDS = 1.0


def main(descriptor: int) -> None:
    """Serve the process at the other end of a socket until it hangs up."""
    # Nothing that the object does may wait for a keyboard, or be ended by one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Connection(descriptor)
    sys.path[:], module = channel.recv()
    if _answer(channel, lambda: _prepare(module)):
        _Process(channel, is_template=True).serve()


def _prepare(module: str) -> None:
    if ":" in module:
        resolve(module)
    else:
        importlib.import_module(module)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGCHLD, _collect_children)
    # Objects that never change stay on the pages that all forks share.
    gc.freeze()


def _collect_children(*_: Any) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


class _Process:
    """What one process serves: a template forks; a host has an object besides."""

    def __init__(self, channel: Connection, *, is_template: bool) -> None:
        self.channel = channel
        self.is_template = is_template
        self.object: Any = None

    def serve(self) -> None:
        while True:
            try:
                kind, *request = self.channel.recv()
            except (EOFError, OSError):
                self._leave()
            if kind == "fork":
                self._fork()
            elif kind == "ping":
                self.channel.send(("returned", None))
            elif kind == "close":
                _answer(self.channel, self._close)
                os._exit(0)
            else:
                _answer(self.channel, lambda kind=kind, request=request: self._run(kind, *request))

    def _run(self, kind: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kind == "make":
            module, _, attribute = name.rpartition(":")
            self.object = getattr(importlib.import_module(module), attribute)(*args, **kwargs)
            return None
        return getattr(self.object, name)(*args, **kwargs)

    def _close(self) -> None:
        close = getattr(self.object, "close", None)
        if close is not None:
            close()

    def _fork(self) -> None:
        with socket.socket(fileno=os.dup(self.channel.fileno())) as carrier:
            _, (descriptor, *_), *_ = socket.recv_fds(carrier, 1, 1)
        twin = Connection(descriptor)
        try:
            child = os.fork()
        except OSError as error:
            twin.send(("raised", error))
            twin.close()
            return
        if child:
            twin.close()
            if not self.is_template:
                os.waitpid(child, 0)
            return
        if not self.is_template:
            self._step_aside(twin)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.is_template = False
        self.channel.close()
        self.channel = twin
        self.channel.send(("returned", os.getpid()))

    def _step_aside(self, twin: Connection) -> None:
        """Fork once more and exit, so that the twin becomes a child of the template."""
        try:
            if os.fork():
                os._exit(0)
        except OSError as error:
            twin.send(("raised", error))
            os._exit(0)

    def _leave(self) -> None:
        """End, because nobody listens any more; a template waits for its hosts, and takes those along that hang."""
        if self.is_template and not _all_children_ended(_PATIENCE_SECONDS):
            os.killpg(0, signal.SIGKILL)
        os._exit(0)


def _all_children_ended(seconds: float) -> bool:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(0.002)
    except ChildProcessError:
        return True
    return False


def _answer(channel: Connection, function: Any) -> bool:
    """Run a function and send what it returned or raised; return whether it returned."""
    try:
        value, kind = function(), "returned"
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the caller
        error.add_note("In the worker process:\n" + traceback.format_exc())
        value, kind = portable(error), "raised"
    try:
        channel.send((kind, value))
    except OSError:
        os._exit(0)
    except Exception as error:  # noqa: BLE001 - what cannot be pickled is told in words
        problem = value if kind == "raised" else error
        channel.send(("raised", RuntimeError(f"{type(problem).__name__}: {problem}")))
    return kind == "returned"


def portable(error: Exception) -> Exception:
    """Return the error, or one that tells the same in words where it would not survive the journey."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever an exception's own code raises when it is rebuilt
        told = RuntimeError(f"{type(error).__name__}: {error}")
        for note in error.__notes__:
            told.add_note(note)
        return told
    return error
