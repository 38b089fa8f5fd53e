"""Files travel as messages: nothing that stands in a sandbox leads anywhere outside, and nothing is swallowed whole."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandboxes import open_sandbox

from agent_gym.errors import ConfigError
from agent_gym.sandbox import Limits, Sandbox
from agent_gym.sandbox.box_session import checked_files


def test_files_go_in_and_come_out(sandbox: Sandbox) -> None:
    files = {"a.txt": b"one\x00\xff", "d/e/b.bin": b"", "umlaut ü.txt": b"x" * 100_000}
    with sandbox.session() as session:
        session.write_files(files)
        assert session.run("sorted(open('a.txt', 'rb').read())").stdout == b"[0, 101, 110, 111, 255]\n"
        session.run("open('d/new.csv', 'w').write('1,2')")
        got = session.read_files()
        assert got.got == {**files, "d/new.csv": b"1,2"} and not got.refused
        assert set(session.read_files(["*.csv"]).got) == {"d/new.csv"}
        assert set(session.read_files(["d/**", "a.*"]).got) == {"d/e/b.bin", "d/new.csv", "a.txt"}


def test_a_run_takes_files_and_brings_some_back(sandbox: Sandbox) -> None:
    result = sandbox.run(
        "open('out.txt', 'w').write(open('in.txt').read().upper())", files={"in.txt": b"text"}, collect=["out.*"]
    )
    assert result.files is not None and result.files.got == {"out.txt": b"TEXT"}
    assert sandbox.run("1").files is None


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../up", "", ".", "a\0b", "x" * 2000])
def test_a_path_that_leads_elsewhere_is_refused(sandbox: Sandbox, path: str) -> None:
    with sandbox.session() as session, pytest.raises(ConfigError, match="does not lead to a place below"):
        session.write_files({path: b"x"})


@given(st.text(max_size=30))
def test_whatever_path_is_accepted_stays_below(path: str) -> None:
    try:
        [checked] = checked_files({path: b""}, Limits())
    except ConfigError:
        return
    assert not checked.startswith("/") and ".." not in checked.split("/") and checked not in ("", ".")


def test_a_link_that_the_code_has_placed_is_not_followed(sandbox: Sandbox, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir(mode=0o777)
    with sandbox.session() as session:
        session.run(f"import os; os.symlink({str(target)!r}, 'd'); os.symlink({str(target / 'f')!r}, 'f')")
        with pytest.raises(ConfigError, match="'d/x' cannot be written"):
            session.write_files({"d/x": b"x"})
        session.write_files({"f": b"here"})
        assert session.run("os.path.islink('f'), open('f').read()").stdout == b"(False, 'here')\n"
        session.run("os.mkfifo('queue')")
        session.write_files({"queue": b"a file now"})
    assert list(target.iterdir()) == []


def test_a_poisoned_folder_gives_its_good_files_and_says_what_is_wrong_with_the_rest(
    sandbox: Sandbox, attacks: Path
) -> None:
    common = (attacks / "_common.py").read_text()
    with sandbox.session() as session:
        made = session.run(common + (attacks / "a14_file_return.py").read_text())
        assert b'"files left"' in made.stdout, made
        files = session.read_files(["out/**"])
        assert files.got["out/ok.txt"] == b"fine"
        assert set(files.got) <= {"out/ok.txt", "out/sparse.bin"} and not files.got.get("out/sparse.bin")
        assert files.refused["out/link.txt"] == "a link" and files.refused["out/dirlink"] == "a link"
        assert files.refused["out/fifo.txt"] == "not a regular file"
        assert "too deep" in files.refused.values()
        assert any(reason == "a name that cannot be used" for reason in files.refused.values())
        assert session.run("1 + 1").stdout == b"2\n"


def test_a_file_of_two_names_is_refused(sandbox: Sandbox) -> None:
    with sandbox.session() as session:
        session.run("import os; open('a', 'w').write('x'); os.link('a', 'b')")
        assert session.read_files().refused == {"a": "a file of several names", "b": "a file of several names"}


def test_files_are_refused_beyond_the_limits(request: pytest.FixtureRequest) -> None:
    limits = Limits(return_files=3, return_bytes=1000)
    with open_sandbox("bubblewrap", request, limits, preload=()) as sandbox, sandbox.session() as session:
        session.run("for name in 'abcde': open(name, 'w').write('x')")
        files = session.read_files()
        assert len(files.got) == 3 and set(files.refused.values()) == {"too many files"}
        session.run("import os\nfor name in 'abcde': os.remove(name)\nopen('large', 'w').write('x' * 2000)")
        assert session.read_files().refused == {"large": "too large"}
        with pytest.raises(ConfigError, match="2,000 bytes: at most 1,000"):
            session.write_files({"a": b"x" * 2000})


def test_a_full_disk_stops_the_code_and_not_the_sandbox(isolating: Sandbox) -> None:
    with isolating.session() as session:
        full = session.run("f = open('fill', 'wb')\nwhile True: f.write(b'x' * (1 << 20)); f.flush()", timeout=30.0)
        assert b"OSError" in full.stderr and full.exit_code == 1
        with pytest.raises(ConfigError, match="cannot be written"):
            session.write_files({"more": b"x" * (1 << 20)})
        session.run("f.close(); import os; os.remove('fill')")
        session.write_files({"more": b"x"})


def test_tens_of_thousands_of_files_are_too_many_to_make(isolating: Sandbox) -> None:
    made = isolating.run(
        "n = 0\ntry:\n    for n in range(60_000): open(f'{n}', 'w').close()\nexcept OSError as e: print(n, e.errno)",
        timeout=60.0,
        collect=["0", "1"],
    )
    number, reason = map(int, made.stdout.split())
    assert number <= isolating.limits.files and reason == 28
    assert made.files is not None and set(made.files.got) <= {"0", "1"}
