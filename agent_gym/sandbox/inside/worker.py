"""The worker: a process that runs untrusted code, cell by cell, in one Python interpreter.

Whatever it says afterwards is a claim, since the code that ran could have said it in its place.
"""

from __future__ import annotations

import _ast
import _signal
import _socket
import builtins
import io
import os
import sys

from . import frames, kernel
from .belongings import Belongings
from .streams import receive_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HERE = receive_all.__code__.co_filename.replace("streams", "worker")
_LONGEST_REQUEST = 64 * 1024 * 1024


class Worker:
    """Runs the cells that come over a channel, until it is closed.

    Args:
        channel: A stream to the supervisor.
        work: The folder that code starts in.
    """

    def __init__(self, channel: _socket.socket, work: str) -> None:
        self._channel = channel
        self._work = work
        self._cells = 0
        self._sources: dict[str, tuple[int, None, list[str], str]] = {}
        self._module = type(sys)("__main__")
        self._outputs = [os.dup(1), os.dup(2)]

    def serve(self) -> None:
        """Run cells for ever."""
        sys.modules["__main__"] = self._module
        self._module.__dict__["__builtins__"] = builtins
        reader = frames.Reader(_LONGEST_REQUEST)
        while True:
            data, descriptors, _ = receive_all(self._channel, 65536)
            if not data:
                os._exit(0)
            for message, payload in reader.feed(data):
                if message["do"] == "fork":
                    self._fork(descriptors)
                else:
                    self._run(message, payload)

    def _run(self, message: dict[str, Any], payload: bytes) -> None:
        self._cells += 1
        code, stdin = payload[: message["code"]], payload[message["code"] :]
        self._open_streams(stdin)
        run = self._run_bash if message["language"] == "bash" else self._run_python
        exit_code = run(code, echo=message["echo"])
        _flush()
        self._channel.sendall(frames.pack({"done": message["id"], "exit": exit_code}))

    def _open_streams(self, stdin: bytes) -> None:
        """Give a cell its own input, and put right what an earlier one did to the outputs."""
        for number, kept in zip((1, 2), self._outputs, strict=True):
            os.dup2(kept, number)
        source = os.memfd_create("stdin") if stdin else os.open("/dev/null", os.O_RDONLY)
        if stdin:
            with open(source, "wb", closefd=False) as file:
                file.write(stdin)
            os.lseek(source, 0, os.SEEK_SET)
        os.dup2(source, 0)
        os.close(source)
        sys.stdin = io.TextIOWrapper(open(0, "rb", closefd=False), encoding="utf-8", errors="replace")
        for name, number in (("stdout", 1), ("stderr", 2)):
            if getattr(getattr(sys, name), "closed", True):
                raw = open(number, "wb", closefd=False)
                setattr(sys, name, io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace"))

    def _run_python(self, code: bytes, *, echo: bool) -> int:
        name = f"<cell {self._cells}>"
        try:
            source = code.decode("utf-8")
            self._remember(name, source)
            tree: Any = compile(source, name, "exec", _ast.PyCF_ONLY_AST)
            last = tree.body.pop() if echo and tree.body and isinstance(tree.body[-1], _ast.Expr) else None
            exec(compile(tree, name, "exec"), self._module.__dict__)
            if last is not None:
                sys.displayhook(eval(compile(_ast.Expression(last.value), name, "eval"), self._module.__dict__))
        except SystemExit as error:
            return _exit_code(error)
        except BaseException as error:  # noqa: BLE001 - whatever the code raises is its result
            self._show(error)
            return 1
        return 0

    def _remember(self, name: str, source: str) -> None:
        """Keep a cell's source for tracebacks, which show its lines."""
        self._sources[name] = (len(source), None, source.splitlines(keepends=True), name)
        if "linecache" in sys.modules:
            sys.modules["linecache"].cache[name] = self._sources[name]

    def _show(self, error: BaseException) -> None:
        """Print a traceback that begins in the cell."""
        import linecache
        import traceback

        linecache.cache.update(self._sources)
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == _HERE:
            trace = trace.tb_next
        try:
            traceback.print_exception(type(error), error, trace, file=sys.stderr)
        except Exception:  # noqa: BLE001 - even printing can be in the code's hands, by an error whose __str__ raises
            os.write(2, b"The error cannot be shown.\n")

    def _run_bash(self, code: bytes, *, echo: bool) -> int:
        _flush()
        # Where children are to be forgotten, nobody would know how this one has ended.
        handler = _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        try:
            pid = os.posix_spawn("/bin/bash", [b"bash", b"-c", code], dict(os.environ))
            code_or_signal = os.waitstatus_to_exitcode(_wait(pid))
        except (OSError, ValueError) as error:
            os.write(2, f"bash cannot run this: {error}\n".encode())
            return 126
        finally:
            _signal.signal(_signal.SIGCHLD, handler)
        return code_or_signal if code_or_signal >= 0 else 128 - code_or_signal

    # -- forking ---------------------------------------------------------------------------------------------------

    def _fork(self, descriptors: list[int]) -> None:
        """Go on twice: here, and in the box whose supervisor, channel and outputs are given."""
        channel, out, err, *namespaces = descriptors
        _flush()
        chance = _random_state()
        arrival, arrived = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(arrival)
                self._move(namespaces, channel, (out, err), arrived)
                _restore(chance)
                os.write(arrived, b"!")
            except BaseException:  # noqa: BLE001 - a half-moved twin must not go on
                os._exit(1)
            for descriptor in (*descriptors, arrived):
                os.close(descriptor)
            return
        for descriptor in (*descriptors, arrived):
            os.close(descriptor)
        # Nothing can be read when all who could have written have ended.
        here = os.read(arrival, 1)
        os.close(arrival)
        _wait(pid)
        self._channel.sendall(frames.pack({"forked": bool(here)}))

    def _move(self, namespaces: list[int], channel: int, outputs: tuple[int, int], arrived: int) -> None:
        """Enter the namespaces of another box, and let go of everything that leads back to this one.

        The user namespace belongs to this user and is a child of this one: entering it needs no privilege here, gives
        all of them there, and they are given up at once; the supervisor here checks that.
        """
        belongings = Belongings({*self._outputs, self._channel.fileno(), channel, *outputs, *namespaces, arrived})
        for namespace, kind in zip(namespaces, kernel.NAMESPACES.values(), strict=True):
            kernel.enter(namespace, kind)
        if os.fork():
            os._exit(0)
        kernel.drop_capabilities()
        os.setsid()
        for kept, output in zip(self._outputs, outputs, strict=True):
            os.dup2(output, kept, inheritable=False)
        for number, output in zip((1, 2), outputs, strict=True):
            os.dup2(output, number)
        os.dup2(channel, self._channel.fileno(), inheritable=False)
        belongings.settle(self._work)
        self._channel.send(b"!")


def _wait(pid: int) -> int:
    """Wait for a child; return its status, 0 where the code has seen to it that nobody can know."""
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return 0  # it waits for every child in a thread, or has set SIGCHLD to be ignored


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: BLE001 - the code may have closed them, or put anything in their place
            pass


def _exit_code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def _random_state() -> Any:
    """Return the state of the random module, which draws a new one in every forked process."""
    module = sys.modules.get("random")
    return module.getstate() if module is not None else None


def _restore(chance: Any) -> None:
    if chance is not None:
        sys.modules["random"].setstate(chance)


def run(channel: _socket.socket, work: str) -> None:
    """Be the worker."""
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    Worker(channel, work).serve()
