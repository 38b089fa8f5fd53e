"""What becomes of code, in every backend."""

import asyncio
import threading
import time

import pytest
from sandboxes import open_sandbox

from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.sandbox import Limits, Result, Sandbox, Status
from agent_gym.sandbox.base import clean


def test_what_code_prints_and_its_exit_code_come_back(sandbox: Sandbox) -> None:
    result = sandbox.run("import sys; print('out'); print('err', file=sys.stderr)")
    assert (result.status, result.stdout, result.stderr, result.exit_code) == (Status.OK, b"out\n", b"err\n", 0)
    assert result.ok and result.killed_by is None and not result.truncated and result.text == "out\nerr\n"
    assert 0 < result.seconds < 10 and result.cpu_seconds > 0


def test_a_run_does_not_print_a_last_expression(sandbox: Sandbox) -> None:
    assert sandbox.run("6 * 7").stdout == b""


def test_nothing_is_left_from_one_run_to_the_next(sandbox: Sandbox) -> None:
    sandbox.run("x = 1; open('left.txt', 'w').write('x'); import builtins; builtins.left = 1")
    after = sandbox.run("import os, builtins; print('x' in globals(), os.listdir('.'), hasattr(builtins, 'left'))")
    assert after.stdout == b"False [] False\n"


def test_an_error_shows_the_line_of_the_code_and_nothing_of_the_sandbox(sandbox: Sandbox) -> None:
    result = sandbox.run("def f(x):\n    return 1 / x\n\nf(0)\n")
    assert (result.status, result.exit_code) == (Status.ERROR, 1)
    lines = result.stderr.decode().splitlines()
    assert lines[0] == "Traceback (most recent call last):" and lines[-1] == "ZeroDivisionError: division by zero"
    assert any(line.strip() == "return 1 / x" for line in lines)
    assert "worker" not in result.stderr.decode()


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        ("import sys; sys.exit()", 0, b""),
        ("import sys; sys.exit(3)", 3, b""),
        ("import sys; sys.exit('bye')", 1, b"bye\n"),
        ("raise SystemExit(256 + 7)", 7, b""),
        ("raise KeyboardInterrupt", 1, b"KeyboardInterrupt\n"),
        ("x = = 1", 1, b"SyntaxError: invalid syntax\n"),
        ("'\\ud800'.encode()", 1, b"surrogates not allowed\n"),
        ("class E(Exception):\n    def __str__(self): raise ValueError\nraise E", 1, b"<exception str() failed>\n"),
    ],
)
def test_the_ways_to_end(sandbox: Sandbox, code: str, exit_code: int, said: bytes) -> None:
    result = sandbox.run(code)
    assert result.exit_code == exit_code and result.stderr.endswith(said)
    assert result.status is (Status.OK if exit_code == 0 else Status.ERROR)


def test_standard_input_is_read_and_ends(sandbox: Sandbox) -> None:
    code = "import sys; print(input(), sys.stdin.read().upper(), sys.stdin.read() == '')"
    assert sandbox.run(code, stdin=b"one\ntwo").stdout == b"one TWO True\n"
    assert sandbox.run("print(repr(open(0).read()))").stdout == b"''\n"


def test_bash_has_its_own_syntax_exit_codes_and_input(sandbox: Sandbox) -> None:
    result = sandbox.run("read line; for i in 1 2; do echo $i-$line; done; exit 4", language="bash", stdin=b"in\n")
    assert (result.stdout, result.exit_code, result.status) == (b"1-in\n2-in\n", 4, Status.ERROR)
    assert sandbox.run("kill -9 $$", language="bash").exit_code == 137
    assert "syntax error" in sandbox.run("if then", language="bash").text


def test_bash_that_is_too_long_is_an_error_of_the_code(sandbox: Sandbox) -> None:
    assert sandbox.run("#" * 3_000_000, language="bash").exit_code == 126


def test_an_unknown_language_or_time_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(UnknownIdError, match="did you mean 'python'"):
        sandbox.run("1", language="pyton")  # type: ignore[arg-type]
    for seconds in (0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="timeout must be more than 0"):
            sandbox.run("1", timeout=seconds)


def test_what_takes_too_long_is_ended(sandbox: Sandbox) -> None:
    result = sandbox.run("print('begun', flush=True)\nwhile True: pass", timeout=0.5)
    assert (result.status, result.exit_code, result.stdout) == (Status.TIMEOUT, None, b"begun\n")
    assert result.timed_out and result.killed_by == "timeout" and 0.4 < result.seconds < 10


def test_output_is_kept_up_to_a_limit_and_the_rest_is_counted(sandbox: Sandbox) -> None:
    result = sandbox.run("import os\nfor _ in range(3): os.write(1, b'x' * (1 << 20))\nprint('end')")
    assert result.status is Status.OK and result.stdout == b"x" * (1 << 20)
    assert result.truncated and result.truncated_bytes == (2 << 20) + len("end\n")


def test_an_endless_flood_is_ended(sandbox: Sandbox) -> None:
    result = sandbox.run("import os\nwhile True: os.write(2, b'A' * (1 << 20))", timeout=60.0)
    assert result.status is Status.OUTPUT_LIMIT and len(result.stderr) == sandbox.limits.output_bytes


@pytest.mark.parametrize(
    "code",
    ["import os; print('last', flush=True); os._exit(0)", "print('last'); import ctypes; ctypes.string_at(0)"],
    ids=["os._exit", "segmentation fault"],
)
def test_a_process_that_ends_without_a_word_has_died(sandbox: Sandbox, code: str) -> None:
    result = sandbox.run(code)
    assert (result.status, result.exit_code, result.restarted) == (Status.DIED, None, True)


def test_a_child_that_holds_the_output_is_not_waited_for(sandbox: Sandbox) -> None:
    result = sandbox.run("import subprocess; subprocess.Popen(['sleep', '300']); print('done')")
    assert (result.status, result.stdout) == (Status.OK, b"done\n") and result.seconds < 30


def test_output_after_the_streams_were_closed_is_lost_and_the_next_cell_has_them_again(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        session.run("import os, sys; sys.stdout.close(); os.close(2)")
        result = session.run("import sys; print('out'); print('err', file=sys.stderr)")
        assert (result.stdout, result.stderr) == (b"out\n", b"err\n")


def test_bytes_of_any_kind_come_back_as_they_are_and_are_shown_harmless(sandbox: Sandbox) -> None:
    raw = b"\x00\xff\x1b]0;title\x07\x1b[2Ja\r\nb\xed\xa0\xbd\xe2\x80\xae"
    result = sandbox.run(f"import os; os.write(1, {raw!r})")
    assert result.stdout == raw
    assert result.text == "�a\nb���"
    assert clean("grün\tgut\n".encode()) == "grün\tgut\n"


def test_a_call_waits_for_its_turn_and_waiting_is_not_running(request: pytest.FixtureRequest) -> None:
    results: list[Result] = []
    with open_sandbox("local", request, concurrency=1) as narrow:
        caller = threading.Thread(target=lambda: results.append(narrow.run("print(1)", timeout=30)))
        with narrow._gate:  # type: ignore[attr-defined]
            caller.start()
            began = time.monotonic()
            caller.join(1.0)
            assert caller.is_alive()
        caller.join()
    assert results[0].ok and results[0].seconds <= time.monotonic() - began - 1.0


def test_methods_can_be_awaited(sandbox: Sandbox) -> None:
    async def main() -> tuple[bytes, bytes, bytes]:
        box = await sandbox.__aenter__()
        one = await box.run("print(1)")
        async with box.session() as session:
            await session.run("x = 2")
            await session.write_files({"f": b"3"})
            async with await session.fork() as twin:
                two = await twin.run("x")
            files = await session.read_files()
        return one.stdout, two.stdout, files.got["f"]

    assert asyncio.run(main()) == (b"1\n", b"2\n", b"3")


def test_runs_of_several_threads_do_not_mix(sandbox: Sandbox) -> None:
    found: dict[int, bytes] = {}

    def one(number: int) -> None:
        found[number] = sandbox.run(f"print({number})").stdout

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: f"{number}\n".encode() for number in range(6)}
    assert time.monotonic() - started < 120


@pytest.mark.parametrize("name", ["seconds", "memory_bytes", "processes", "cpus", "output_bytes", "idle_seconds"])
def test_limits_are_more_than_nothing(name: str) -> None:
    with pytest.raises(ConfigError, match=f"The limit {name} must be more than 0"):
        Limits(**{name: 0})
