"""Which sandbox one gets, and that one gets none rather than an unsafe one."""

import importlib.metadata
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sandboxes import open_sandbox, require

from agent_gym.errors import SandboxUnavailable, UnknownIdError
from agent_gym.sandbox import GUARANTEES, Sandbox, make, probe, shared
from agent_gym.sandbox.local import Local


@pytest.fixture
def without_bubblewrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("without_bubblewrap")
def test_where_nothing_isolates_auto_refuses_and_says_for_each_backend_why() -> None:
    with pytest.raises(SandboxUnavailable) as told:
        make("auto", allow_unsafe=True)
    assert "bubblewrap is not installed: apt-get install bubblewrap" in str(told.value)
    assert "docker: no image is named" in str(told.value) and "local" not in str(told.value)
    found = probe("bubblewrap")
    assert not found.works and "apt-get install bubblewrap" in found.detail


def test_auto_is_bubblewrap_where_it_works(bubblewrap: Sandbox) -> None:
    with make() as sandbox:
        assert sandbox.name == bubblewrap.name == "bubblewrap"
    assert probe("bubblewrap").works


def test_every_backend_that_is_required_here_runs_code(request: pytest.FixtureRequest) -> None:
    for backend in filter(None, os.environ.get("REQUIRE_SANDBOX", "").split(",")):
        with open_sandbox(backend, request) as sandbox:
            assert sandbox.run("print(1)").stdout == b"1\n"


def test_no_isolation_must_be_asked_for_in_so_many_words(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="agent_gym.sandbox.local")
    with pytest.raises(SandboxUnavailable, match="allow_unsafe=True"):
        make("local")
    with make("local", allow_unsafe=True) as sandbox:
        assert isinstance(sandbox, Local) and not any(sandbox.guarantees().values())
    assert any("without isolation" in record.message for record in caplog.records)


def test_an_unknown_backend_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownIdError, match="did you mean 'bubblewrap'"):
        make("bublewrap")


def test_every_backend_answers_for_every_guarantee(sandbox: Sandbox) -> None:
    assert set(sandbox.guarantees()) == set(GUARANTEES)


def test_one_sandbox_is_shared_by_a_process_and_made_anew_when_it_was_closed(bubblewrap: Sandbox) -> None:
    one = shared()
    assert shared() is one and one.run("print(1)").ok
    one.close()
    assert shared() is not one and shared().run("print(1)").ok
    shared().close()


def test_only_the_named_libraries_are_there(bubblewrap: Sandbox) -> None:
    names = ("numpy", "sympy", "mpmath", "torch", "agent_gym")
    code = f"import importlib.util as u; print([n for n in {names} if u.find_spec(n)])"
    assert bubblewrap.run(code).stdout == b"['numpy', 'sympy', 'mpmath']\n"
    with make("bubblewrap", packages=("pyyaml",), preload=("yaml",)) as other:
        assert other.run("import yaml; print(yaml.safe_load('[1]'))").stdout == b"[1]\n"
        assert not other.run("import numpy").ok
    with pytest.raises(SandboxUnavailable, match="no-such-library, which is not installed"):
        make("bubblewrap", packages=("no-such-library",))
    with (
        pytest.raises(SandboxUnavailable, match="no_such_module"),
        make("bubblewrap", packages=(), preload=("no_such_module",)) as broken,
    ):
        broken.run("1")


def test_an_ordinary_user_is_refused_without_a_limit_on_memory_and_served_when_that_is_accepted(tmp_path: Path) -> None:
    python = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/bin")
    if os.geteuid() != 0 or python is None:
        pytest.skip("needs root to become somebody else, and a Python of the system of the same version")
    if shutil.which("bwrap") is None:
        require("bubblewrap", "it is not installed")
    places = [str(Path(__file__).parents[2]), str(importlib.metadata.distribution("numpy").locate_file(""))]
    if not all(parent.stat().st_mode & 1 for place in places for parent in Path(place).parents):
        pytest.skip("an ordinary user cannot read where this is installed")
    code = (
        "from agent_gym.sandbox import make\nfrom agent_gym.errors import SandboxUnavailable\n"
        "try: make('bubblewrap')\nexcept SandboxUnavailable as e: print('REFUSED', e)\n"
        "with make('bubblewrap', require_memory_limit=False) as s, s.session() as a:\n"
        "    a.run('x = 41'); told = s.guarantees()['memory is limited as a whole']\n"
        "    print(a.fork().run('x + 1').text.strip(), told)\n"
        "    print(a.run('y = bytearray(1 << 30)').text.strip().splitlines()[-1])\n"
    )
    done = subprocess.run(
        [python, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={"PYTHONPATH": os.pathsep.join(places), "HOME": "/tmp", "PATH": os.environ["PATH"]},
        user=65534,
        group=65534,
        extra_groups=[],
    )
    refused, forked, memory = done.stdout.strip().splitlines() if done.returncode == 0 else (done.stderr, "", "")
    assert refused.startswith("REFUSED bubblewrap works, but memory cannot be limited as a whole"), refused
    assert forked == "42 False" and memory == "MemoryError"
