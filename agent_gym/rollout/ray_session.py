"""Ray itself: found or started, quietly and within a time-out, and left as it was found."""

import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agent_gym.errors import ConfigError, MissingExtraError

logger = logging.getLogger(__name__)

START_SECONDS = 90.0
"""For Ray to start here, or for a cluster to take us in."""
_STARTS = 2
"""Times that a Ray of our own is started: it gives up after 30 s, which a busy machine may need."""
_KNOCK_SECONDS = 5.0
_OBJECT_STORE_BYTES = 80 * 2**20
"""Close to the least that Ray accepts: answers of environments are small."""
_PREFIX = "agr-"
"""Begins the name of our Ray's folder, which holds sockets: their paths may have 107 characters."""
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Read when Ray is imported: otherwise it prints what its daemons say, whatever `log_to_driver` is.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
}
_PATIENT = {
    "RAY_gcs_server_port_wait_time_s": "80",
    "RAY_agent_register_timeout_ms": "80000",
    "RAY_worker_register_timeout_seconds": "80",
}
"""Ray's own limits for what it starts, 30 s for most."""


def import_ray() -> Any:
    """Return the package.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        with _environment(_QUIET):
            import ray
    except ImportError as error:
        raise MissingExtraError.of("ray", "--workers ray") from error
    return ray


class RaySession:
    """A connection to Ray; one that this process has already is used and left alone.

    Args:
        address: A cluster; None for the one of RAY_ADDRESS, else for a Ray of our own on this machine.
        cpus: CPUs that a Ray of our own has to give away.

    Raises:
        ConfigError: No cluster answers, or Ray does not start.
        MissingExtraError: Ray is not installed.
    """

    def __init__(self, address: str | None, cpus: int) -> None:
        self.ray = import_ray()
        self._folder: str | None = None
        self._starter: _Starter | None = None
        self._ours = not self.ray.is_initialized()
        if not self._ours:
            return
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        try:
            if address == "local":
                _sweep()
                self._start(cpus)
            else:
                _knock(address)
                self._init({}, address=address)
            _take_back_signals()
        except BaseException as error:
            self.close()
            if isinstance(error, ConfigError) or not isinstance(error, Exception):
                raise
            what = "Ray does not start on this machine" if address == "local" else f"The Ray of {address} is no use"
            raise ConfigError(
                f"{what} ({type(error).__name__}: {_first_line(error)}): check --ray-address and that all machines "
                "have the same versions of Ray and Python, or choose --workers local."
            ) from error

    def close(self) -> None:
        """Leave the cluster, or end our own Ray with all its processes and files."""
        try:
            if self._ours:
                self.ray.shutdown()
        finally:
            if self._folder is not None:
                _read_settings()
            self._tidy()
            self._ours = False

    def _start(self, cpus: int) -> None:
        """Start a Ray of our own; once more, where it did not come up in the time that it gives itself."""
        for left in reversed(range(_STARTS)):
            self._folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_root())
            try:
                self._init(
                    _PATIENT | _locked(),
                    address="local",
                    num_cpus=cpus,
                    num_gpus=0,
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _temp_dir=self._folder,
                )
                return
            except Exception as error:
                # One that still tries cannot be stopped.
                if not left or isinstance(error, TimeoutError):
                    raise
                logger.warning("Ray did not start (%s); it is started once more.", _first_line(error))
                with suppress(Exception):
                    self.ray.shutdown()
                self._tidy()

    def _init(self, environment: dict[str, str], **arguments: Any) -> None:
        with _environment(_QUIET | environment):
            if environment:
                _read_settings()
            self._starter = _Starter(lambda: self.ray.init(log_to_driver=False, logging_level="ERROR", **arguments))
            self._starter.wait(START_SECONDS)

    def _tidy(self) -> None:
        """Let go what was started, and remove its files."""
        if self._starter is not None:
            self._starter.let_go()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._starter, self._folder = None, None


@cache
def _token() -> str:
    """Return what a Ray of our own asks everybody for; one for all of this process, which Ray remembers."""
    return secrets.token_hex(32)


def _locked() -> dict[str, str]:
    """Return the settings with which a Ray of our own answers this process alone.

    It listens on all interfaces whatever address it is given, and who may speak to it may run code.
    """
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _token()}


def _read_settings() -> None:
    """Let Ray read its settings and the token from the environment again, which it does once, when it is imported."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _knock(address: str) -> None:
    """Find out at once whether anybody is at an address; Ray would try for long, and take the process down.

    Raises:
        ConfigError: Nobody is.
    """
    place = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        if place.hostname and place.port:
            socket.create_connection((place.hostname, place.port), timeout=_KNOCK_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"No cluster of Ray answers at {address} ({error}): start one with `ray start --head`, or leave out "
            "--ray-address for a Ray on this machine."
        ) from error


class _Starter:
    """Does something in a thread that stays until it is let go: what Ray starts ends with the thread that started it.

    There it cannot set handlers of signals, which belong to the run.

    Args:
        work: What to do.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._failure: BaseException | None = None
        self._done, self._leave = threading.Event(), threading.Event()
        threading.Thread(target=self._run, daemon=True, name="ray").start()

    def wait(self, seconds: float) -> None:
        """Wait until it is done.

        Raises:
            TimeoutError: It takes longer.
            BaseException: What it raised.
        """
        if not self._done.wait(seconds):
            raise TimeoutError(f"not ready after {seconds:g} s")
        if self._failure is not None:
            raise self._failure

    def let_go(self) -> None:
        """Let the thread end."""
        self._leave.set()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._failure = error
        self._done.set()
        self._leave.wait()


def _take_back_signals() -> None:
    """Let Python hear of SIGTERM again, which Ray's core answers with a trace of its stack."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for a while, those that are not set already."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _root() -> str:
    """Return a folder with a short path for temporary files."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= len("/tmp") or not Path("/tmp").is_dir() else "/tmp"


def _sweep() -> None:
    """Remove what the Rays of runs have left behind that were killed."""
    for folder in Path(_root()).glob(f"{_PREFIX}*-*"):
        process = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if process.isdecimal() and not _lives(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def _lives(process: int) -> bool:
    with suppress(PermissionError):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0].rstrip(".")
