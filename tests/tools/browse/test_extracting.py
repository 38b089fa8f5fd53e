"""The main text of pages, and processes that a page takes down."""

import gc
import importlib.util
import os
import struct
import sys
import threading
from collections.abc import Iterator

import pytest

from agent_gym.errors import MissingExtraError
from agent_gym.tools.browse import Extractor, extracting, extracting_process

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("trafilatura") is None, reason="trafilatura (the extra search) is not installed"
)
MORNING, EVENING = (
    " ".join(
        f"On {time} {day} the robot opens drawer {day} and finds a small key under the papers." for day in range(5)
    )
    for time in ("morning", "evening")
)
ARTICLE = (
    "<html><head><title>Keys</title></head><body><nav><a href=/>Home</a> <a href=/more>Subscribe now</a></nav>"
    f"<article><h1>How keys are found</h1><p>{MORNING}</p><p>{EVENING}</p></article>"
    "<footer>Copyright and cookies</footer></body></html>"
)
# What a process of the tests does in place of the real one: it says that it is ready, and then something else.
FAKE = (
    "import os, socket, struct, time; channel = socket.socket(fileno={{}});"
    "send = lambda data: channel.sendall(struct.pack('!I', len(data)) + data);"
    "send(b'{{{{\"ready\": {ready}}}}}'); channel.recv(8); {then}"
)


@pytest.fixture
def extractor() -> Iterator[Extractor]:
    extractor = Extractor(workers=1, seconds=60)
    yield extractor
    extractor.close()


def faked(monkeypatch: pytest.MonkeyPatch, then: str, ready: str = "true") -> None:
    monkeypatch.setattr(extracting, "_START", FAKE.format(ready=ready, then=then))


def test_the_article_is_taken_and_the_rest_left(extractor: Extractor) -> None:
    text = extractor.extract(ARTICLE)
    assert text.count("small key under the papers") == 10
    assert "Subscribe" not in text and "cookies" not in text


def test_one_process_serves_many_pages(extractor: Extractor) -> None:
    assert extractor.extract(ARTICLE) == extractor.extract(ARTICLE)
    assert extractor.extract("") == "" and extractor.extract("\ud800\x00 no html") is not None
    worker = extractor._free.queue[0]
    extractor.extract(ARTICLE)
    assert extractor._free.queue[0] is worker is not None


@pytest.mark.parametrize("depth", [3_000, 500_000])
def test_a_page_nested_without_end_takes_nothing_down(extractor: Extractor, depth: int) -> None:
    nested = "<div>" * depth + "deep" + "</div>" * depth
    assert isinstance(extractor.extract(f"<html><body>{nested}<p>{MORNING}</p>"), str)
    assert extractor.extract(ARTICLE)


@pytest.mark.parametrize(
    "then",
    [
        "os._exit(1)", "os.kill(os.getpid(), 11)", "channel.close()", "time.sleep(600)", "send(b'no json')",
        "send(b'[]')",
        "send(b'{{}}')", "channel.sendall(struct.pack('!I', 2**31))", "channel.sendall(b'ab')", "send(b'\\xff')",
    ],
)  # fmt: skip
def test_a_process_that_fails_costs_the_text_of_one_page(monkeypatch: pytest.MonkeyPatch, then: str) -> None:
    with monkeypatch.context() as faking:
        faked(faking, then)
        extractor = Extractor(workers=1, seconds=0.2 if "sleep" in then or "'ab'" in then else 60)
        assert extractor.extract(ARTICLE) == ""
    extractor._seconds = 60
    assert "small key" in extractor.extract(ARTICLE)
    extractor.close()


def test_a_process_that_has_died_meanwhile_is_replaced(extractor: Extractor) -> None:
    extractor.extract(ARTICLE)
    worker = extractor._free.queue[0]
    assert worker is not None
    worker._process.kill()
    worker._process.wait()
    assert "small key" in extractor.extract(ARTICLE)


def test_who_finds_no_free_process_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    faked(monkeypatch, "time.sleep(600)")
    extractor = Extractor(workers=1, seconds=0.3)
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(extractor.extract(ARTICLE))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["", "", ""]
    extractor.close()


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as faking:
        faked(faking, "pass", ready="false")
        with pytest.raises(MissingExtraError, match=r"agent-gym\[search\]"):
            Extractor().extract(ARTICLE)
    monkeypatch.setattr(extracting, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"agent-gym\[search\]"):
        Extractor()


def test_a_process_ends_with_its_extractor(extractor: Extractor) -> None:
    extractor.extract(ARTICLE)
    process = extractor._free.queue[0]._process  # type: ignore[union-attr]
    extractor.close()
    assert process.poll() is not None
    other = Extractor(workers=1, seconds=60)
    other.extract(ARTICLE)
    process = other._free.queue[0]._process  # type: ignore[union-attr]
    del other
    gc.collect()
    assert process.wait(60) == 0


def test_the_process_is_told_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERPER_API_KEY", "secret-4711")
    faked(monkeypatch, "import json; send(json.dumps({{'text': repr(dict(os.environ))}}).encode())")
    extractor = Extractor(workers=1, seconds=60)
    environment = extractor.extract(ARTICLE)
    assert "PYTHONPATH" in environment and "secret-4711" not in environment
    extractor.close()


def test_the_process_gives_up_files_and_endless_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from agent_gym.tools.browse import extracting_process as p; import resource, sys;"
        "p._limit(); print(resource.getrlimit(resource.RLIMIT_FSIZE)[0], resource.getrlimit(resource.RLIMIT_CORE)[0],"
        "resource.getrlimit(resource.RLIMIT_AS)[0] <= 2 * 1024**3)"
    )
    import subprocess

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["0", "0", "True"]


def test_what_raises_in_the_process_is_no_text() -> None:
    def fail(source: str, **options: object) -> str:
        raise RecursionError

    assert extracting_process._text(fail, ARTICLE) == ""
    assert extracting_process._text(lambda source, **options: None, ARTICLE) == ""
    assert struct.calcsize("!If") == 8 and os.getpid()
