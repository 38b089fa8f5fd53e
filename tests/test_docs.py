"""The site builds without a warning, fetches nothing from elsewhere, and what its pages say runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import documents
import pytest
import yaml

ROOT = Path(__file__).parents[1]
OWN = [place for place, test in documents.PLACES.items() if test == "tests/test_docs.py"]
PAGES = {f"{place}/{name}": text for place in OWN for name, text in documents.pages(place).items()}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader who follows the pages from the first on has the repository's examples at hand."""
    path = tmp_path_factory.mktemp("reader")
    (path / "examples").symlink_to(ROOT / "examples")
    return path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    path = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(path)],
        cwd=ROOT,
        env=ENVIRONMENT | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return path


def test_no_page_is_left_out() -> None:
    for page in documents.DOCS.rglob("*.md"):
        place = page.parent.relative_to(documents.DOCS).as_posix()
        assert place in documents.PLACES, f"nothing runs what {page} says: name its folder in tests/documents.py"
    for test in set(documents.PLACES.values()) - {"tests/test_docs.py"}:
        assert "documents.pages(" in (ROOT / test).read_text()


def test_the_site_builds_and_has_every_page(site: Path) -> None:
    for page in documents.DOCS.rglob("*.md"):
        relative = page.relative_to(documents.DOCS)
        built = site / (relative.parent if page.stem == "index" else relative.with_suffix("")) / "index.html"
        assert built.is_file(), f"{relative} is not in the site"
    assert (site / "search" / "search_index.json").stat().st_size > 10_000


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    fetched = re.compile(
        r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//|<link\b[^>]*href=[\"']?https?://"
    )
    for page in site.rglob("*.html"):
        assert not fetched.findall(page.read_text()), page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", sheet.read_text()), sheet


def test_the_reference_is_made_of_docstrings(site: Path) -> None:
    text = (site / "reference" / "environments" / "index.html").read_text()
    assert "agent_gym.env.TextEnv.fork" in text and "Raises:" in text


def test_links_out_of_the_documents_lead_to_where_the_code_lives(site: Path) -> None:
    """Nobody has said where, so that they are plain words."""
    text = (site / "methods" / "epo" / "index.html").read_text()
    assert "epo.py" in text and "../../agent_gym/trainers" not in text


@pytest.mark.parametrize(("repository", "expected"), [("", "[b](c.md) a"), ("https://x.org/r/", None)])
def test_a_link_out_of_the_documents_is_rewritten(repository: str, expected: str | None) -> None:
    import importlib.util
    from types import SimpleNamespace

    spec = importlib.util.spec_from_file_location("outward", ROOT / "docs" / "hooks" / "outward.py")
    assert spec and spec.loader
    outward = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(outward)
    page = SimpleNamespace(file=SimpleNamespace(src_uri="howto/a.md"))
    config = SimpleNamespace(docs_dir=str(documents.DOCS), repo_url=repository)
    said = outward.on_page_markdown("[b](c.md) [a](../../README.md)", page=page, config=config)
    assert said == (expected or "[b](c.md) [a](https://x.org/r/blob/main/README.md)")
    assert outward.on_page_markdown("[a](../../no.md)", page=page, config=config) == "[a](../../no.md)"


def test_pages_are_short() -> None:
    long = {str(page): len(page.read_text().splitlines()) for page in documents.DOCS.rglob("*.md")}
    assert {page: lines for page, lines in long.items() if lines > 200} == {}


@pytest.mark.parametrize("name", PAGES)
def test_the_python_of_a_page_runs_in_order(name: str, folder: Path) -> None:
    code = documents.blocks(PAGES[name], "python")
    if not code:
        return
    done = documents.run_blocks(code, folder, ENVIRONMENT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [name for name, text in PAGES.items() if documents.blocks(text, "bash")])
def test_the_commands_of_a_page_run_in_order(name: str, folder: Path) -> None:
    """All in one test: later ones read what earlier ones wrote."""
    for line in (line for block in documents.blocks(PAGES[name], "bash") for line in documents.lines(block)):
        if documents.why_not_run(line):
            continue
        done = documents.command(line, folder, ENVIRONMENT)
        # `doctor` says with 1 that nothing isolates on this machine.
        assert done.returncode == 0 or line.startswith("agent-gym doctor"), (line, done.stdout, done.stderr)


def test_the_picture_says_in_words_what_it_shows() -> None:
    picture = (documents.DOCS / "images" / "data_path.svg").read_text()
    assert (
        "<title" in picture and "<desc" in picture and "http" not in picture.replace("http://www.w3.org/2000/svg", "")
    )


def test_mkdocs_is_strict_about_what_it_is_not_strict_about_by_itself() -> None:
    text = re.sub(r"!ENV \[.*?\]", '""', (ROOT / "mkdocs.yml").read_text())
    config = yaml.safe_load(text)
    assert config["strict"] and config["theme"]["font"] is False
    assert config["validation"]["nav"]["omitted_files"] == "warn"
