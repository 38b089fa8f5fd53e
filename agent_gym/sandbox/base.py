"""What every sandbox promises: untrusted code runs under limits, and its result says what happened to it.

The interface is synchronous, because environments are; `async with` gives the same methods to be awaited.
Knows nothing of tools, models or tokens.
"""

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Literal, Self, TypeVar, get_args

from agent_gym.errors import ConfigError, UnknownIdError

Language = Literal["python", "bash"]
LANGUAGES: tuple[str, ...] = get_args(Language)
_T = TypeVar("_T")

MIB = 1024 * 1024


class Status(StrEnum):
    """How a piece of code ended. That the sandbox itself failed is no status but a `SandboxError`."""

    OK = "ok"
    ERROR = "error"
    """An exception was not caught, or the exit code is not 0."""
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    OUTPUT_LIMIT = "output_limit"
    """It wrote so much that it was killed."""
    DIED = "died"
    """The process ended without a word: a crash, `os._exit`, or a forged message."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What code may use. The same for all calls of a sandbox; a call may ask for less time, or for more."""

    seconds: float = 10.0
    """Wall time of one call, from when it starts to run; the time it waits for its turn does not count."""
    memory_bytes: int = 512 * MIB
    """Of all its processes and files together."""
    processes: int = 64
    """Processes and threads."""
    cpus: float = 1.0
    """Processors, as a share of time."""
    output_bytes: int = MIB
    """Kept of each of the two output streams of a call; what is beyond is read and thrown away."""
    killing_output_bytes: int = 64 * MIB
    """A call that writes so much is ended."""
    disk_bytes: int = 64 * MIB
    """Of each of its writable folders; they count as memory, too."""
    files: int = 20_000
    """Files and folders in each writable folder."""
    return_files: int = 100
    """Files that come out in one call."""
    return_bytes: int = 16 * MIB
    """Bytes that go in or come out in one call."""
    session_seconds: float = 24 * 3600.0
    """A session is ended after so much time."""
    idle_seconds: float = 3600.0
    """A session that is not used for so long is ended."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if getattr(self, each.name) <= 0:
                raise ConfigError(f"The limit {each.name} must be more than 0, not {getattr(self, each.name)}.")


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a piece of code.

    It is a claim of a process that ran the code, and such a process can lie: a verdict on an agent's code compares, on
    the host, what a fresh sandbox printed with what was expected.
    """

    status: Status
    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int | None = None
    """Of the code; None where it was killed."""
    seconds: float = 0.0
    """Wall time that it ran."""
    cpu_seconds: float = 0.0
    """Processor time of its main process."""
    truncated_bytes: int = 0
    """Output that was not kept."""
    restarted: bool = False
    """The session's variables and running processes are lost (its files are not): the next call starts afresh."""
    files_lost: bool = False
    """The session's files are lost as well."""
    files: "Files | None" = None
    """What `collect` asked for."""

    @property
    def ok(self) -> bool:
        """Whether it ran to its end without an error."""
        return self.status is Status.OK

    @property
    def timed_out(self) -> bool:
        """Whether its time was over."""
        return self.status is Status.TIMEOUT

    @property
    def killed_by(self) -> str | None:
        """The limit that ended it, if one did."""
        return None if self.status in (Status.OK, Status.ERROR, Status.DIED) else self.status.value

    @property
    def truncated(self) -> bool:
        """Whether some of its output was not kept."""
        return self.truncated_bytes > 0

    @property
    def text(self) -> str:
        """Both streams as text that may be shown: no control characters, terminal sequences or broken characters."""
        apart = b"\n" if self.stdout and self.stderr and not self.stdout.endswith(b"\n") else b""
        return clean(self.stdout + apart + self.stderr)


@dataclass(frozen=True, slots=True)
class Files:
    """Files that came out of a sandbox, by relative path, and those that were refused, with the reason."""

    got: Mapping[str, bytes] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


class Session(ABC):
    """A stateful sandbox: variables and files stay from one call to the next, until it is closed or its time is over.

    Used by one thread at a time. It starts with its first call. `async with` gives the same methods to be awaited.
    """

    @abstractmethod
    def run(
        self, code: str, *, language: Language = "python", stdin: bytes = b"", timeout: float | None = None
    ) -> Result:
        """Run a piece of code.

        Python code sees the variables of earlier calls, and the value of a last expression is printed, as in a
        notebook; bash sees the files. The working folder is `/work`.

        Args:
            code: The code.
            language: "python" or "bash".
            stdin: What it can read from its standard input.
            timeout: Seconds; the sandbox's own limit by default.

        Raises:
            SandboxError: The sandbox failed, twice; the code is not to blame.
        """

    @abstractmethod
    def write_files(self, files: Mapping[str, bytes]) -> None:
        """Write files, by path relative to `/work`; folders are made.

        Raises:
            ConfigError: A path is absolute, leads outside or is not writable, or the files are too large.
        """

    @abstractmethod
    def read_files(self, patterns: Sequence[str] = ("**",)) -> Files:
        """Read the regular files below `/work` that match one of the patterns; links, devices and so on are refused.

        Args:
            patterns: As in `pathlib.PurePath.match`, with "**" for any folders: "*.csv", "plots/**".
        """

    @abstractmethod
    def fork(self) -> "Session":
        """Return an independent session with the same variables and files.

        Threads, processes that run and connections to them do not come along.

        Raises:
            SandboxError: It cannot be forked.
        """

    @abstractmethod
    def close(self) -> None:
        """End everything that runs in it, and forget its files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> "AsyncSession":
        self._awaited = AsyncSession(self)
        return self._awaited

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._awaited.close()


class Sandbox(ABC):
    """Runs untrusted code; shared by all episodes of a process, and safe to call from many threads.

    Args:
        limits: What code may use.
        concurrency: Calls that run at once; the others wait for their turn, and waiting does not count as running.
    """

    name: ClassVar[str]

    def __init__(self, limits: Limits, concurrency: int) -> None:
        if concurrency < 1:
            raise ConfigError(f"concurrency must be at least 1, not {concurrency}.")
        self.limits = limits
        self.concurrency = concurrency

    @property
    @abstractmethod
    def usable(self) -> bool:
        """Whether it is open, and belongs to this process (not to one that this was forked from)."""

    @abstractmethod
    def guarantees(self) -> Mapping[str, bool]:
        """Return which of the promises hold here, by name; see `agent_gym.sandbox.GUARANTEES`."""

    @abstractmethod
    def run(
        self,
        code: str,
        *,
        language: Language = "python",
        stdin: bytes = b"",
        timeout: float | None = None,
        files: Mapping[str, bytes] | None = None,
        collect: Sequence[str] = (),
    ) -> Result:
        """Run a piece of code in a sandbox that nothing has touched before, and that is thrown away afterwards.

        Unlike in a session, a last expression is not printed. A failure of the sandbox is tried once more.

        Args:
            code: The code.
            language: "python" or "bash".
            stdin: What it can read from its standard input.
            timeout: Seconds; the sandbox's own limit by default.
            files: Files to begin with, see `Session.write_files`.
            collect: Files to bring out, see `Session.read_files`.

        Raises:
            SandboxError: The sandbox failed, twice; the code is not to blame.
        """

    @abstractmethod
    def session(self) -> Session:
        """Return a stateful session; it starts when it is first used.

        `with sandbox.session() as session: session.run("x = 1")`, or
        `async with sandbox.session() as session: await session.run("x = 1")`.
        """

    @abstractmethod
    def close(self) -> None:
        """End all sessions and let go of everything."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> "AsyncSandbox":
        return AsyncSandbox(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)


class AsyncSession:
    """The methods of a session, to be awaited; each waits in a thread of its own."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sandbox-session")

    async def run(self, code: str, **options: Any) -> Result:
        """See `Session.run`."""
        return await self._call(self._session.run, code, **options)

    async def write_files(self, files: Mapping[str, bytes]) -> None:
        """See `Session.write_files`."""
        await self._call(self._session.write_files, files)

    async def read_files(self, patterns: Sequence[str] = ("**",)) -> Files:
        """See `Session.read_files`."""
        return await self._call(self._session.read_files, patterns)

    async def fork(self) -> "AsyncSession":
        """See `Session.fork`; the twin is closed by who asked for it, or with `async with`."""
        return AsyncSession(await self._call(self._session.fork))

    async def close(self) -> None:
        """See `Session.close`."""
        await self._call(self._session.close)
        self._thread.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, function: Callable[..., _T], *args: Any, **options: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(function, *args, **options))


class AsyncSandbox:
    """The methods of a sandbox, to be awaited."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def run(self, code: str, **options: Any) -> Result:
        """See `Sandbox.run`."""
        return await asyncio.to_thread(partial(self._sandbox.run, code, **options))

    def session(self) -> Session:
        """See `Sandbox.session`."""
        return self._sandbox.session()


_HARMFUL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.?"  # what a terminal would obey
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"  # control characters, tab and line feed apart
    r"|[\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # what turns the direction of text round
)


def clean(output: bytes) -> str:
    """Return output as text that may be shown to a person or a model."""
    text = output.decode("utf-8", "replace").replace("\r\n", "\n")
    return _HARMFUL.sub("", text)


def check_language(language: str) -> None:
    """Refuse a language that no sandbox runs.

    Raises:
        UnknownIdError: It is neither "python" nor "bash".
    """
    if language not in LANGUAGES:
        raise UnknownIdError.of("language", language, LANGUAGES)
