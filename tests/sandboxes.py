"""One sandbox of each backend; one that is missing is skipped with its reason, and fails where CI requires it."""

import importlib.util
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_gym.errors import SandboxUnavailable
from agent_gym.sandbox import Limits, Sandbox, make

BACKENDS = ("bubblewrap", "docker", "local")
ISOLATING = ("bubblewrap", "docker")
LIMITS = Limits(seconds=10.0, memory_bytes=256 * 1024 * 1024)


def require(backend: str, reason: str) -> None:
    """Skip for want of a backend; in CI, where it is required, fail."""
    if backend in os.environ.get("REQUIRE_SANDBOX", "").split(","):
        pytest.fail(f"{backend} is required here: {reason}")
    pytest.skip(f"{backend}: {reason}")


@pytest.fixture(scope="session")
def docker_options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A daemon and an image."""
    if importlib.util.find_spec("sandbox_docker_daemon") is None:
        require("docker", "there is no daemon for tests")
    import sandbox_docker_daemon

    try:
        daemon = sandbox_docker_daemon.start(tmp_path_factory.mktemp("docker"))
    except RuntimeError as error:
        require("docker", str(error))
    yield {"base_url": daemon.base_url, "image": daemon.image}
    daemon.close()


def open_sandbox(backend: str, request: pytest.FixtureRequest, limits: Limits = LIMITS, **options: Any) -> Sandbox:
    """Make a sandbox, or skip."""
    if backend == "docker":
        options = {**request.getfixturevalue("docker_options"), **options}
    logging.getLogger("agent_gym.sandbox.local").setLevel(logging.ERROR)
    try:
        sandbox = make(backend, limits=limits, allow_unsafe=backend == "local", **options)
    except SandboxUnavailable as error:
        require(backend, str(error))
    return sandbox


@pytest.fixture(scope="session", params=BACKENDS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A sandbox of each backend."""
    with open_sandbox(request.param, request) as opened:
        yield opened


@pytest.fixture(scope="session", params=ISOLATING)
def isolating(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A sandbox of each backend that isolates."""
    with open_sandbox(request.param, request) as opened:
        yield opened


@pytest.fixture(scope="session")
def bubblewrap(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """The default sandbox."""
    with open_sandbox("bubblewrap", request) as opened:
        yield opened


@pytest.fixture
def attacks() -> Path:
    """The folder with the attack programs."""
    return Path(__file__).parent / "attacks"
