"""Tools that run an agent's code in a sandbox: Python as in a notebook, and bash."""

import copy
import textwrap
from typing import Self

from agent_gym.errors import ConfigError
from agent_gym.sandbox.base import MIB, Language, Result, Sandbox, Session, Status, check_language
from agent_gym.tools.base import Tool
from agent_gym.tools.calls import ToolResult, ToolStatus

_STATUSES: dict[Status, ToolStatus] = {Status.OK: "ok", Status.TIMEOUT: "timeout"}
"""How a call of the tool ended, by how the code ended; "error" otherwise."""

_DESCRIPTIONS = {
    ("python", True): (
        "Run Python code, as in a notebook: variables, imports and files stay for the next call, and the value of the "
        "last line is shown."
    ),
    ("python", False): "Run a Python program; print what you want to see. Nothing stays for the next call.",
    ("bash", True): "Run bash commands. Files stay for the next call.",
    ("bash", False): "Run bash commands. Nothing stays for the next call.",
}


class PythonTool(Tool):
    """Runs code in a sandbox. A stateful one keeps a session for the episode, which starts with the first call.

    Args:
        sandbox: Where the code runs: a sandbox, or the name of a backend, of which the process shares one. The best
            backend of the machine by default.
        stateful: Whether variables and files stay from call to call.
        timeout: Seconds of one call, from when the code starts to run; the sandbox's own limit by default.
        language: "python" or "bash".

    Raises:
        UnknownIdError: There is no such language.
        ConfigError: The time is not positive.
    """

    name = "python"
    timeout = None
    """The sandbox ends the code in time; how long a call waits for its turn does not count."""
    blocking = True

    def __init__(
        self,
        sandbox: Sandbox | str = "auto",
        *,
        stateful: bool = True,
        timeout: float | None = None,
        language: Language = "python",
    ) -> None:
        check_language(language)
        if timeout is not None and timeout <= 0:
            raise ConfigError(f"The timeout of the tool {language!r} must be more than 0 s, not {timeout}.")
        self.name = language if type(self).name in ("python", "bash") else type(self).name
        self.description = _DESCRIPTIONS[language, stateful]
        self.stateful = stateful
        self._language: Language = language
        self._seconds = timeout
        self._backend = sandbox if isinstance(sandbox, str) else ""
        self._sandbox = None if isinstance(sandbox, str) else sandbox
        self._session: Session | None = None

    def setup(self) -> None:
        """End the session of the episode before; the new one starts with the first call."""
        self.close()

    def run(self, code: str) -> ToolResult:
        """Run code.

        Args:
            code: The code.

        Raises:
            SandboxError: The sandbox failed; the code is not to blame.
            SandboxUnavailable: No sandbox works on this machine.
        """
        sandbox = self._opened()
        if not self.stateful:
            result = sandbox.run(textwrap.dedent(code), language=self._language, timeout=self._seconds)
        else:
            if self._session is None:
                self._session = sandbox.session()
            result = self._session.run(textwrap.dedent(code), language=self._language, timeout=self._seconds)
        return ToolResult(self.name, self._told(result, sandbox), _STATUSES.get(result.status, "error"))

    def fork(self) -> Self:
        """Return a tool with a session that has the same variables and files.

        Raises:
            SandboxError: The session cannot be forked.
        """
        twin = copy.copy(self)
        twin._session = self._session.fork() if self._session is not None else None
        return twin

    def close(self) -> None:
        """End the session."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _opened(self) -> Sandbox:
        """Return the sandbox; the one that the process shares is made when it is first used."""
        if self._sandbox is None or (self._backend and not self._sandbox.usable):
            from agent_gym.sandbox import shared

            self._sandbox = shared(self._backend)
        return self._sandbox

    def _told(self, result: Result, sandbox: Sandbox) -> str:
        """Return what the model reads: the output, how the code ended if not well, and what was lost."""
        end = " ".join(part for part in (self._ended(result, sandbox), self._lost(result)) if part)
        missing = f"[{result.truncated_bytes:,} more bytes of output were not kept.]" if result.truncated else ""
        return "\n".join(part for part in (result.text.rstrip(), missing, end) if part) or "(no output)"

    def _ended(self, result: Result, sandbox: Sandbox) -> str:
        limits = sandbox.limits
        match result.status:
            case Status.TIMEOUT:
                return f"Stopped after {self._seconds or limits.seconds:g} s."
            case Status.OUT_OF_MEMORY:
                return f"Stopped: it used more than {limits.memory_bytes // MIB} MiB of memory."
            case Status.OUTPUT_LIMIT:
                return f"Stopped: it wrote more than {limits.killing_output_bytes // MIB} MiB."
            case Status.DIED:
                return "The process died" + (f" (exit code {result.exit_code})." if result.exit_code else ".")
            case Status.ERROR if result.exit_code and (self._language == "bash" or not result.text.strip()):
                return f"Failed with exit code {result.exit_code}."
        return ""

    def _lost(self, result: Result) -> str:
        if not self.stateful or not result.restarted:
            return ""
        if result.files_lost:
            return "The variables and files of earlier calls are lost."
        return "The variables are lost, the files remain."


class BashTool(PythonTool):
    """Runs bash commands in a sandbox, see `PythonTool`."""

    name = "bash"

    def __init__(self, sandbox: Sandbox | str = "auto", *, stateful: bool = True, timeout: float | None = None) -> None:
        super().__init__(sandbox, stateful=stateful, timeout=timeout, language="bash")
