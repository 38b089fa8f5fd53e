"""Sessions keep variables and files, and say when they are lost."""

import os
import signal
import time

import pytest
from sandboxes import open_sandbox

from agent_gym.errors import SandboxError, WorkerError
from agent_gym.sandbox import Limits, Sandbox, Status


def test_variables_functions_imports_and_files_stay(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        session.run("import math\ndef area(r): return math.floor(math.pi * r * r)\nopen('f.txt', 'w').write('kept')")
        assert session.run("print(area(2), open('f.txt').read())").stdout == b"12 kept\n"
        assert session.run("cat f.txt; echo; pwd", language="bash").stdout.startswith(b"kept\n")


def test_a_last_expression_is_shown_as_in_a_notebook(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        assert session.run("x = 4\nx * 'ab'").stdout == b"'abababab'\n"
        assert session.run("_ + 'c'; None").stdout == b""
        assert session.run("x; x = 5").stdout == b""
        assert session.run("if x: x").stdout == b""


def test_what_code_defines_belongs_to_main_and_can_be_pickled(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        session.run("class Point:\n    pass")
        assert (
            session.run("import pickle; type(pickle.loads(pickle.dumps(Point()))).__module__").stdout == b"'__main__'\n"
        )


def test_an_error_in_a_cell_that_was_defined_earlier_shows_its_lines(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        session.run("def f():\n    raise ValueError('here')")
        error = session.run("f()").stderr.decode()
        assert "raise ValueError('here')" in error and '"<cell 1>", line 2' in error and '"<cell 2>", line 1' in error


def test_after_a_time_out_variables_are_lost_and_files_are_kept(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        session.run("x = 1; open('f.txt', 'w').write('kept')")
        late = session.run("while True: pass", timeout=0.4)
        assert (late.status, late.restarted, late.files_lost) == (Status.TIMEOUT, True, False)
        after = session.run("print('x' in globals(), open('f.txt').read())")
        assert after.stdout == b"False kept\n" and not after.restarted


def test_a_time_out_ends_what_the_cell_has_started(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        started = "import os, subprocess\np = subprocess.Popen(['sleep', '300'], start_new_session=True)\nprint(p.pid)"
        session.run(started)
        session.run("while True: pass", timeout=0.4)
        alive = session.run(
            "import os\nnames = [open(f'/proc/{p}/comm').read() for p in os.listdir('/proc') if p.isdigit()\n"
            "  and os.stat(f'/proc/{p}').st_uid == os.getuid() and os.path.exists(f'/proc/{p}/comm')]\n"
            "print('sleep\\n' in names)"
        )
        assert alive.stdout == b"False\n" or sandbox.name == "local"


def test_what_died_between_two_cells_is_noticed(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        session.run("import os, threading\nx = 1\nthreading.Timer(0.05, os._exit, [0]).start()")
        # It dies now or in the middle of this cell.
        first = session.run("import time; time.sleep(0.5); x")
        assert first.restarted and (first.status is Status.DIED or b"NameError" in first.stderr)
        assert session.run("6 * 7").stdout == b"42\n"


def test_a_session_whose_life_is_over_begins_anew_and_says_so(request: pytest.FixtureRequest) -> None:
    limits = Limits(idle_seconds=50.0, session_seconds=500.0)
    with open_sandbox("local", request, limits) as sandbox, sandbox.session() as session:
        session.run("x = 1; open('f', 'w').write('x')")
        session.expire(time.monotonic() + 40.0)  # type: ignore[attr-defined]
        assert session.run("x").stdout == b"1\n"
        for later in (60.0, 600.0):
            session.expire(time.monotonic() + later)  # type: ignore[attr-defined]
            after = session.run("import os; print(os.listdir('.'))")
            assert (after.stdout, after.restarted, after.files_lost) == (b"[]\n", True, True)
            assert not session.run("1").restarted


def test_a_session_that_was_never_used_costs_nothing(sandbox: Sandbox) -> None:
    session = sandbox.session()
    assert session._box is None  # type: ignore[attr-defined]
    with session.fork() as twin:
        assert twin.run("1").stdout == b"1\n"
    assert session._box is None  # type: ignore[attr-defined]
    session.close()


def test_a_closed_session_or_sandbox_says_so(request: pytest.FixtureRequest) -> None:
    with open_sandbox("local", request) as sandbox:
        session = sandbox.session()
        session.run("1")
        session.close()
        session.close()
        for use in (
            lambda: session.run("1"),
            session.fork,
            session.read_files,
            lambda: session.write_files({"a": b""}),
        ):
            with pytest.raises(SandboxError, match="session was closed"):
                use()
        other = sandbox.session()
    for call in (lambda: sandbox.run("1"), sandbox.session):
        with pytest.raises(SandboxError, match="sandbox was closed"):
            call()
    with pytest.raises(SandboxError, match="closed"):
        other.run("1")
    assert not sandbox.usable


def test_a_sandbox_is_not_used_by_a_process_that_was_forked_from_its_owner(bubblewrap: Sandbox) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            bubblewrap.run("1")
        except SandboxError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read, "rb") as said:
        assert b"forked from" in said.read()
    assert bubblewrap.run("print(1)").ok


def test_a_failure_of_the_sandbox_is_one_of_a_worker_so_that_episodes_are_played_again() -> None:
    assert issubclass(SandboxError, WorkerError)


def test_a_killed_supervisor_costs_a_run_a_second_try_and_a_session_its_state(isolating: Sandbox) -> None:
    with isolating.session() as session:
        session.run("x = 1")
        _kill_box(session)
        with pytest.raises(SandboxError, match="its variables and files are gone"):
            session.run("x")
        after = session.run("'x' in globals()")
        assert (after.stdout, after.restarted) == (b"False\n", True)


def test_a_killed_pool_costs_a_run_nothing(request: pytest.FixtureRequest) -> None:
    with open_sandbox("bubblewrap", request, preload=()) as sandbox:
        sandbox.run("1")
        sandbox.run("1")
        pool = sandbox._pool  # type: ignore[attr-defined]
        os.kill(pool._process.pid, signal.SIGKILL)
        pool._process.wait()
        assert sandbox.run("print('again')").stdout == b"again\n"


def test_a_box_that_is_lost_before_anything_happened_in_it_is_replaced(isolating: Sandbox) -> None:
    with isolating.session() as session:
        session.read_files()
        _kill_box(session)
        assert session.run("1").stdout == b"1\n"


def _kill_box(session: object) -> None:
    """Kill the first process of a session's box, from outside."""
    session._box.kill()  # type: ignore[attr-defined]


def test_memory_that_ran_out_in_one_cell_is_not_the_fault_of_the_next(isolating: Sandbox) -> None:
    hungry = (
        "import os\nif os.fork() == 0:\n    x = bytearray(2 << 30); x[::4096] = b'x' * len(x[::4096])\n"
        "    os._exit(0)\nos.wait()"
    )
    with isolating.session() as session:
        assert session.run(hungry, timeout=30.0).status is Status.OK
        assert session.run("os._exit(0)").status is Status.DIED
