"""A fork of a session goes on with the same variables and files, and neither side sees what the other does."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sandboxes import open_sandbox

from agent_gym.errors import ForkDiverged, SandboxError
from agent_gym.sandbox import Limits, Sandbox, Session, Status

COUNT = "n += 1; open('n.txt', 'w').write(str(n)); print(n, open('n.txt').read())"


def said(session: Session, code: str) -> str:
    result = session.run(code)
    assert result.ok, result
    return result.stdout.decode().strip()


def test_both_sides_go_on_by_themselves(sandbox: Sandbox) -> None:
    with sandbox.session() as parent:
        parent.run("n = 40; names = ['a']; import os; os.mkdir('d'); open('d/f', 'w').write('before')")
        with parent.fork() as child:
            assert said(child, COUNT) == "41 41"
            assert said(child, "names.append('child'); open('d/f').read()") == "'before'"
            child.run("open('d/f', 'w').write('child'); os.remove('n.txt')")
            assert said(parent, "n, names, open('d/f').read(), os.listdir('.')") == "(40, ['a'], 'before', ['d'])"
            assert said(parent, COUNT) == "41 41"
            parent.run("names.append('parent'); open('d/f', 'w').write('parent')")
            assert (
                said(child, "names, open('d/f').read(), sorted(os.listdir('.'))") == "(['a', 'child'], 'child', ['d'])"
            )


def test_a_fork_has_the_same_random_numbers_ahead(bubblewrap: Sandbox) -> None:
    with bubblewrap.session() as parent:
        parent.run("import random, numpy; generator = numpy.random.default_rng(3); random.seed(4)")
        with parent.fork() as child:
            code = "random.random(), generator.normal()"
            assert said(child, code) == said(parent, code)


def test_a_fork_of_a_fork_and_siblings(sandbox: Sandbox) -> None:
    with sandbox.session() as root:
        root.run("path = ['root']")
        children = [root.fork() for _ in range(3)]
        for number, child in enumerate(children):
            child.run(f"path.append({number})")
        grandchild = children[1].fork()
        grandchild.run("path.append('deep')")
        assert said(grandchild, "path") == "['root', 1, 'deep']"
        assert [said(child, "path") for child in children] == ["['root', 0]", "['root', 1]", "['root', 2]"]
        assert said(root, "path") == "['root']"
        for session in (*children, grandchild):
            session.close()


@pytest.mark.parametrize("first", ["parent", "child"])
def test_either_side_may_end_first(sandbox: Sandbox, first: str) -> None:
    parent = sandbox.session()
    parent.run("n = 1; open('f', 'w').write('x')")
    child = parent.fork()
    ended, other = (parent, child) if first == "parent" else (child, parent)
    ended.close()
    assert said(other, "n, open('f').read()") == "(1, 'x')"
    with other.fork() as late:
        assert said(late, "n") == "1"
    other.close()


def test_a_chain_may_be_longer_than_the_kernel_nests_namespaces(bubblewrap: Sandbox) -> None:
    sessions = [bubblewrap.session()]
    sessions[0].run("depth = 0")
    for _ in range(35):
        sessions.append(sessions[-1].fork())
        sessions[-1].run("depth += 1")
    assert [said(session, "depth") for session in sessions[::5]] == [str(depth) for depth in range(0, 36, 5)]
    for session in sessions:
        session.close()


def test_open_files_stand_where_they_were_and_are_separate(bubblewrap: Sandbox) -> None:
    with bubblewrap.session() as parent:
        parent.run(
            "import os, tempfile\nf = open('log', 'w+'); f.write('one two'); f.flush(); f.seek(4)\n"
            "gone = tempfile.TemporaryFile(); gone.write(b'abcdef'); gone.flush(); gone.seek(2)\n"
            "end = open('end', 'a'); end.write('1'); end.flush()"
        )
        with parent.fork() as child:
            assert said(child, "f.read(), gone.read()") == "('two', b'cdef')"
            child.run("f.write(' child'); f.flush(); gone.write(b'X'); gone.flush(); end.write('c'); end.flush()")
            assert said(parent, "f.read(), gone.read(), open('end').read()") == "('two', b'cdef', '1')"
            assert said(child, "open('log').read(), open('end').read()") == "('one two child', '1c')"


def test_the_folder_that_code_has_gone_to_is_kept(bubblewrap: Sandbox) -> None:
    with bubblewrap.session() as parent:
        parent.run("import os; os.makedirs('/tmp/a/b'); os.chdir('/tmp/a/b')")
        with parent.fork() as child:
            assert said(child, "os.getcwd()") == "'/tmp/a/b'"


def test_a_process_in_the_background_stays_with_the_parent(bubblewrap: Sandbox) -> None:
    with bubblewrap.session() as parent:
        parent.run("import os, subprocess; p = subprocess.Popen(['sleep', '300'])")
        with parent.fork() as child:
            assert said(child, "sorted(int(x) for x in os.listdir('/proc') if x.isdigit())") == "[1, 2]"
            assert said(parent, "print(p.poll())") == "None"
            # Its end does not take the parent's processes along, nor the other way round.
            child.run("while True: pass", timeout=0.3)
            assert said(parent, "print(p.poll())") == "None"
            parent.run("while True: pass", timeout=0.3)
            assert said(child, "6 * 7") == "42"


def test_a_time_out_of_the_parent_leaves_its_branches_alone(sandbox: Sandbox) -> None:
    with sandbox.session() as parent:
        parent.run("n = 7")
        with parent.fork() as child, child.fork() as grandchild:
            assert parent.run("while True: pass", timeout=0.3).status is Status.TIMEOUT
            assert child.run("import os; os._exit(0)").status is Status.DIED
            assert said(grandchild, "n") == "7"
            assert said(parent, "'n' in globals()") == "False"


def test_threads_do_not_come_along_and_do_not_stand_in_the_way(bubblewrap: Sandbox) -> None:
    with bubblewrap.session() as parent:
        parent.run(
            "import threading; e = threading.Event(); t = threading.Thread(target=e.wait, daemon=True); t.start()"
        )
        with parent.fork() as child:
            assert said(child, "t.is_alive(), threading.active_count()") == "(False, 1)"
            assert said(parent, "t.is_alive()") == "True"


def test_a_folder_full_of_traps_is_copied_as_it_is(bubblewrap: Sandbox) -> None:
    with bubblewrap.session() as parent:
        parent.run(
            "import os\nos.symlink('/etc/shadow', 'link'); os.mkfifo('fifo'); open('a', 'w').write('x')\n"
            "os.link('a', 'b'); open('sparse', 'wb').truncate(60 << 20); open(b'bad\\xff\\n name', 'w').close()\n"
            "os.makedirs('/'.join(['d'] * 200))"
        )
        with parent.fork() as child:
            assert said(child, "os.readlink('link'), os.stat('a').st_nlink, os.path.getsize('sparse') == 60 << 20") == (
                "('/etc/shadow', 2, True)"
            )
            assert said(child, "os.stat('sparse').st_blocks") == "0"
            assert said(child, "os.path.exists('/'.join(['d'] * 200)), len(os.listdir('.'))") == "(True, 7)"


def test_memory_of_branches_is_counted_by_itself(bubblewrap: Sandbox) -> None:
    with bubblewrap.session() as parent:
        parent.run("x = bytearray(100 << 20)")
        with parent.fork() as child:
            assert child.run("y = bytearray(100 << 20); len(y)").ok
            assert parent.run("y = bytearray(100 << 20); len(y)").ok
            assert child.run("z = bytearray(300 << 20)").status is Status.OUT_OF_MEMORY
            assert said(parent, "len(x)") == str(100 << 20)


def test_where_a_backend_cannot_fork_the_cells_are_replayed_and_must_give_the_same(
    request: pytest.FixtureRequest,
) -> None:
    with open_sandbox("local", request, Limits(seconds=20.0)) as sandbox, sandbox.session() as parent:
        parent.write_files({"given.txt": b"from the host"})
        parent.run("text = open('given.txt').read(); print(text)")
        with parent.fork() as child:
            assert said(child, "text") == "'from the host'"
        parent.run("import time; print(time.perf_counter_ns())")
        with pytest.raises(ForkDiverged, match="Cell 3 gave another result"):
            parent.fork()
        assert said(parent, "text") == "'from the host'"


SABOTAGE = {
    "no fork": "import os; os.fork = lambda: 1 / 0",
    "no way there": "import os; os.setsid = os.dup2 = os.chdir = None",
    "dies": "import os; os.register_at_fork(after_in_child=lambda: os._exit(0))",
    "sleeps": "import os; os.register_at_fork(after_in_child=lambda: __import__('time').sleep(30))",
    "stops": "import os; os.register_at_fork(before=lambda: __import__('signal').raise_signal(19))",
}


def test_code_that_stands_in_the_way_of_a_fork_harms_itself_alone(bubblewrap: Sandbox) -> None:
    def survives(sabotage: str) -> Status:
        with bubblewrap.session() as parent:
            parent.run(SABOTAGE[sabotage])
            try:
                with parent.fork() as child:
                    child.run("1")
            except SandboxError:
                pass
            return parent.run("print('alive')", timeout=5.0).status

    # At the same time, since two of them are waited for in vain.
    with ThreadPoolExecutor(len(SABOTAGE)) as pool:
        ends = list(pool.map(survives, SABOTAGE))
    assert set(ends) <= {Status.OK, Status.DIED, Status.TIMEOUT}
    assert bubblewrap.run("print(1)").ok


def test_a_twin_keeps_no_privileges_whatever_the_code_has_prepared(bubblewrap: Sandbox) -> None:
    keep = (
        "import os\n"
        "def stay():\n"
        "    caps = open('/proc/self/status').read().split('CapEff:')[1].split()[0]\n"
        "    if int(caps, 16) and os.fork() == 0:\n"
        "        import time; time.sleep(60)\n"
        "os.register_at_fork(after_in_child=stay)"
    )
    with bubblewrap.session() as parent:
        parent.run(keep)
        try:
            child = parent.fork()
        except SandboxError:
            assert said(parent, "1") == "1"
            return
        with child:
            found = said(
                child,
                "[s for p in os.listdir('/proc') if p.isdigit() and p != '1' "
                "for s in [open(f'/proc/{p}/status').read()] "
                "if 'Z (zombie)' not in s and int(s.split('CapEff:')[1].split()[0], 16)]",
            )
            assert found == "[]"
