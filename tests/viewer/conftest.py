"""A browser for the tests of the page, and a server for it; where there is no browser they are skipped."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Open = Callable[..., Any]
Turn = Callable[[Any, str], None]
PATIENCE = 30_000
"""Milliseconds that a page is waited for: only a busy machine, and a failure, take so long."""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def _needs_browser() -> tuple[Any, Any]:
    """Return Playwright's entry and its expectations; skip, or fail where a browser is demanded."""
    missing = None
    try:
        from playwright.sync_api import expect, sync_playwright
    except ImportError:
        missing = "playwright is not installed"
    if missing is None and CHROMIUM is None:
        missing = "there is no Chromium"
    if missing is None:
        return sync_playwright, expect
    if os.environ.get("REQUIRE_BROWSER") == "1":
        pytest.fail(f"REQUIRE_BROWSER=1, but {missing}.")
    pytest.skip(f"{missing}: the page is not tested in a browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, without a window; for one file, because Playwright's event loop keeps others from being run."""
    sync_playwright, expect = _needs_browser()
    with sync_playwright() as playwright:
        # As root its own sandbox does not start.
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        expect.set_options(timeout=PATIENCE)
        yield running
        running.close()


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., str]]:
    """Serves run folders from threads of this process; returns the address."""
    import uvicorn

    from agent_gym.viewer.server import make_app

    running: list[tuple[Any, threading.Thread]] = []

    def begin(*runs: Path) -> str:
        server = uvicorn.Server(uvicorn.Config(make_app(list(runs)), port=0, log_level="error", lifespan="off"))
        started = threading.Event()
        inner = server.startup

        async def startup(*arguments: Any, **named: Any) -> None:
            await inner(*arguments, **named)
            started.set()

        server.startup = startup  # type: ignore[method-assign]
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        assert started.wait(20), "the server did not start"
        running.append((server, thread))
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    yield begin
    for server, thread in running:
        # Connections that a browser keeps open are not waited for.
        server.should_exit = server.force_exit = True
        thread.join(10)


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens an address in a context of its own; whatever the console complains about fails the test."""
    contexts: list[Any] = []
    problems: list[str] = []

    def begin(address: str, *, offline: bool = False, **options: Any) -> Any:
        context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "color_scheme": "light", **options}
        )
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
        page.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        if offline:
            context.set_offline(True)
            page.on("request", lambda sent: _only_local(sent.url, problems))
        page.problems = problems
        page.goto(address)
        return page

    yield begin
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture(scope="session")
def turn_to() -> Turn:
    """Goes to another place of a page that is open, and waits until that is drawn; nothing is loaded again."""
    script = """route => new Promise(drawn => {
        const seen = new MutationObserver(() => { seen.disconnect(); drawn(); });
        seen.observe(document.getElementById("main"), { attributes: true, attributeFilter: ["data-drawn"] });
        location.hash = route;
    })"""
    return lambda page, route: page.evaluate(script, route)


def _only_local(url: str, problems: list[str]) -> None:
    if not url.startswith(("file:", "data:")):
        problems.append(f"request of {url}")
