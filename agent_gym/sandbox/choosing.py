"""Which sandbox this machine can have: probed by running code in it, never guessed."""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agent_gym.errors import SandboxError, SandboxUnavailable, UnknownIdError
from agent_gym.sandbox.base import Limits, Sandbox

logger = logging.getLogger(__name__)

GUARANTEES: Final = (
    "host files are out of reach",
    "no network",
    "own processes",
    "own user",
    "system calls are limited",
    "memory is limited as a whole",
    "processes are limited",
    "disk is limited",
    "sessions fork",
)
"""What a sandbox can promise; `Sandbox.guarantees` says which of it holds."""

BACKENDS: Final = ("bubblewrap", "docker", "local")
_PROBE: Final = "import os; print(6 * 7, os.path.exists('/root'), sorted(os.environ)[:1])"


@dataclass(frozen=True, slots=True)
class Probe:
    """What became of trying a backend."""

    backend: str
    works: bool
    detail: str
    """Why it does not work and how to mend that; else what it offers."""
    guarantees: Mapping[str, bool]


def make(backend: str = "auto", *, limits: Limits | None = None, allow_unsafe: bool = False, **options: Any) -> Sandbox:
    """Make a sandbox.

    Args:
        backend: "bubblewrap", "docker" (with `image=`), "local" (which isolates nothing, and needs `allow_unsafe`), or
            "auto": bubblewrap if it works here, else Docker if an image is named; never "local".
        limits: What code may use.
        allow_unsafe: Accept the backend "local".
        **options: Of the backend: see `Bubblewrap`, `Docker` and `Local`.

    Raises:
        SandboxUnavailable: The backend, or with "auto" every isolating one, does not work here; the message says why
            and what to install.
    """
    if backend == "auto":
        return _first_that_works(limits, options)
    return _maker(backend)(limits=limits, **_accepting(backend, allow_unsafe), **options)


def shared(backend: str = "auto") -> Sandbox:
    """Return the sandbox that all tools and environments of this process use by default, with the default limits."""
    with _guard:
        sandbox = _shared.get(backend)
        if sandbox is None or not sandbox.usable:
            sandbox = _shared[backend] = make(backend)
        return sandbox


def probe(backend: str, *, allow_unsafe: bool = False, **options: Any) -> Probe:
    """Try a backend by running code in it."""
    try:
        with _maker(backend)(**_accepting(backend, allow_unsafe), **options) as sandbox:
            result = sandbox.run(_PROBE)
            if not result.ok or not result.stdout.startswith(b"42"):
                return Probe(backend, False, f"code ended with {result.status.value}: {result.text[:200]}", {})
            return Probe(backend, True, "code runs", sandbox.guarantees())
    except (SandboxUnavailable, SandboxError) as error:
        return Probe(backend, False, str(error), {})


_shared: dict[str, Sandbox] = {}
_guard = threading.Lock()


def _begin_anew() -> None:
    """In a forked process: another thread of its parent may have held the lock."""
    global _guard
    _guard = threading.Lock()


os.register_at_fork(after_in_child=_begin_anew)


def _first_that_works(limits: Limits | None, options: Mapping[str, Any]) -> Sandbox:
    candidates = ["bubblewrap", "docker"] if "image" not in options else ["docker"]
    failures = []
    for backend in candidates:
        if backend == "docker" and "image" not in options:
            failures.append("docker: no image is named; give image='python:3.11-slim'")
            continue
        try:
            sandbox = _maker(backend)(limits=limits, **options)
            result = sandbox.run(_PROBE)
            if result.ok:
                return sandbox
            sandbox.close()
            failures.append(f"{backend}: code ended with {result.status.value}")
        except (SandboxUnavailable, SandboxError) as error:
            failures.append(f"{backend}: {error}")
    raise SandboxUnavailable(
        "No sandbox works on this machine, and untrusted code is not run without one. " + " | ".join(failures)
    )


def _maker(backend: str) -> Callable[..., Sandbox]:
    if backend == "bubblewrap":
        from agent_gym.sandbox.bubblewrap import Bubblewrap

        return Bubblewrap
    if backend == "docker":
        from agent_gym.sandbox.docker import Docker

        return Docker
    if backend == "local":
        from agent_gym.sandbox.local import Local

        return Local
    raise UnknownIdError.of("sandbox", backend, ("auto", *BACKENDS))


def _accepting(backend: str, allow_unsafe: bool) -> dict[str, Any]:
    return {"allow_unsafe": allow_unsafe} if backend == "local" else {}
