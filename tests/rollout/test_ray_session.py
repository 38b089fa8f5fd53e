"""A Ray of one's own: how it is started, and what is left of it. Ray itself is a stand-in."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agent_gym.errors import ConfigError
from agent_gym.rollout import ray_session
from agent_gym.rollout.ray_session import RaySession


class StandIn:
    """Does not start the first times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.starts: list[dict[str, Any]] = []
        self.tokens: list[str] = []

    def is_initialized(self) -> bool:
        return False

    def init(self, **arguments: Any) -> None:
        self.starts.append(arguments)
        assert os.environ["RAY_AUTH_MODE"] == "token"
        self.tokens.append(os.environ["RAY_AUTH_TOKEN"])
        if len(self.starts) <= self.failures:
            raise RuntimeError("The current node timed out during startup.")

    def shutdown(self) -> None: ...


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ray_session, "_read_settings", lambda: None)


def folders(ray: StandIn) -> list[bool]:
    return [Path(each["_temp_dir"]).exists() for each in ray.starts]


def test_a_ray_that_did_not_come_up_in_its_time_is_started_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = StandIn(failures=1)
    monkeypatch.setattr(ray_session, "import_ray", lambda: ray)
    session = RaySession(None, cpus=2)
    assert folders(ray) == [False, True] and all(each["num_cpus"] == 2 for each in ray.starts)
    session.close()
    assert folders(ray) == [False, False]


def test_a_ray_that_does_not_start_is_told_in_a_sentence_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = StandIn(failures=9)
    monkeypatch.setattr(ray_session, "import_ray", lambda: ray)
    with pytest.raises(ConfigError, match=r"Ray does not start on this machine .*timed out during startup"):
        RaySession(None, cpus=1)
    assert folders(ray) == [False, False]


def test_a_ray_of_ones_own_asks_for_a_token_that_nobody_else_has(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = StandIn(failures=0)
    monkeypatch.setattr(ray_session, "import_ray", lambda: ray)
    for _ in range(2):
        RaySession(None, cpus=1).close()
    # Ray remembers it: another Ray of the same process has to have the same.
    assert len(ray.tokens[0]) == 64 and set(ray.tokens) == {ray.tokens[0]}
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_what_the_ray_of_a_killed_run_has_left_on_the_disk_is_removed_by_the_next() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    dead, alive = (Path("/tmp") / f"agr-{number}-left" for number in (process.pid, os.getpid()))
    for folder in (dead, alive):
        folder.mkdir()
    ray_session._sweep()
    assert (dead.exists(), alive.exists()) == (False, True)
    alive.rmdir()
