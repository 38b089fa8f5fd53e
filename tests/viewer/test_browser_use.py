"""Using the page: while a run is written, by keyboard, in the dark, and on a small screen."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import episode, evaluation_run, make_run

from agent_gym.store.run import RunFolder

pytest.importorskip("starlette")
expect: Any = pytest.importorskip("playwright.sync_api").expect

PAGES = {
    "overview": "#/overview?run=0",
    "groups": "#/groups?run=0",
    "group": "#/group?run=0&id=train/1/g0",
    "episodes": "#/episodes?run=0",
    "episode": "#/episode?run=0&id=train/1/g0e0",
    "evaluation": "#/evaluation?run=1",
    "comparison": "#/evaluation?run=1&with=2",
    "pair": "#/evaluation?run=1&with=2&left=eval/0/0&right=eval/0/0",
}
WORD = "unbroken" * 40
"""What no line holds and no space divides."""


def record(step: int) -> dict[str, Any]:
    return {"phase": "train", "step": step, "success_rate": step / 10, "reward": step / 10, "episodes": 2, "kl": 0.1}


def batch(step: int) -> list[Any]:
    group = f"train/{step}/g0"
    first = episode(f"{group}e0", group=group, task=f"task-{WORD}", success=True, turns=12, action=f"say {WORD}")
    return [first, episode(f"{group}e1", group=group, parent=first.id, branch_turn=2, turns=12, observation=WORD)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunFolder]:
    folder = tmp_path_factory.mktemp("runs")
    training = make_run(folder / f"name-{WORD[:80]}", [(1, "train", batch(1))], [record(1)])
    return [training, evaluation_run(folder / "a", [0, 1, 2]), evaluation_run(folder / "b", [0])]


@pytest.fixture(scope="module")
def address(runs: list[RunFolder], serve: Callable[..., str]) -> str:
    return serve(*(run.path for run in runs))


def focused(page: Any) -> str:
    return str(page.evaluate("document.activeElement.innerText"))


def test_pages_follow_a_run_that_is_being_written(open_page: Any, serve: Callable[..., str], tmp_path: Path) -> None:
    run = make_run(tmp_path / "running", [(1, "train", batch(1))], [record(1)])
    place = serve(run.path)
    curves, list_, typing = (open_page(f"{place}/#/{name}?run=0") for name in ("overview", "groups", "episodes"))
    expect(curves.get_by_text("1 of 10")).to_be_visible()
    expect(list_.locator(".total")).to_have_text("1 group")
    expect(typing.locator(".total")).to_have_text("2 episodes")
    for page in (curves, list_, typing):
        page.evaluate("window.kept = true")
    list_.set_viewport_size({"width": 1280, "height": 180})
    list_.evaluate("scrollTo(0, 1000)")
    typing.get_by_label("Search").focus()
    run.log(record(2))
    with run.trajectories() as store:
        store.add(batch(2), step=2, phase="train")
    expect(curves.get_by_text("2 of 10")).to_be_visible()
    expect(curves.locator('[data-chart="KL divergence"] tbody tr')).to_have_count(0)
    curves.locator('[data-chart="KL divergence"] summary').click()
    expect(curves.locator('[data-chart="KL divergence"] tbody tr')).to_have_count(2)
    # Nothing moves below the eyes of those who have scrolled down.
    expect(list_.locator("tbody tr")).to_have_count(1)
    list_.get_by_role("button", name="Show what is new").click()
    expect(list_.locator(".total")).to_have_text("2 groups")
    expect(typing.locator(".total")).to_have_text("4 episodes")
    assert typing.evaluate("document.activeElement.name") == "q", "what one types in keeps the focus"
    assert all(page.evaluate("window.kept") for page in (curves, list_, typing)), "no page was loaded again"


def test_everything_is_reached_by_keyboard(open_page: Any, address: str) -> None:
    page = open_page(f"{address}/#/overview?run=0")
    page.wait_for_selector("main[data-drawn]")
    keys = page.keyboard
    keys.type("ge")
    expect(page.locator("h1")).to_have_text("Episodes")
    keys.press("/")
    assert page.evaluate("document.activeElement.name") == "q"
    keys.press("Escape")
    keys.type("jj")
    assert "g0e0" in focused(page)
    keys.press("k")
    assert "g0e1" in focused(page)
    keys.press("Enter")
    expect(page.locator("article.turn")).to_have_count(12)
    keys.press("j")
    keys.press("j")
    assert "Turn 2" in focused(page)
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    keys.press("n")
    expect(page.locator("article.turn .badge", has_text="shared")).to_have_count(0)
    keys.press("u")
    expect(page.locator("h2").first).to_have_text("Branch tree")
    page.locator("[data-leaf]").first.focus()
    keys.press("Enter")
    expect(page.locator("article.turn")).to_have_count(12)
    keys.type("gv")
    expect(page.locator("h1")).to_have_text("Evaluation")
    keys.type("go")
    expect(page.locator("h1")).to_have_text("Overview")
    keys.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("next / previous row or turn")
    keys.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_dark_and_light_follow_the_system_until_one_chooses_and_the_choice_is_kept(
    open_page: Any, address: str
) -> None:
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    page = open_page(f"{address}/#/overview?run=0")
    page.wait_for_selector("main[data-drawn]")
    light = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(ground)
    assert light != dark
    page.keyboard.press("d")
    assert page.evaluate(ground) == light
    page.reload()
    page.wait_for_selector("main[data-drawn]")
    assert page.evaluate(ground) == light, "chosen, although the system is dark"
    page.get_by_role("button", name="Dark or light").click()
    assert page.evaluate(ground) == dark


NAMELESS = """() => [...document.querySelectorAll("input, select, button, svg:not([aria-hidden])")]
    .filter((e) => !(e.labels?.[0]?.textContent || e.textContent || e.getAttribute("aria-label")))
    .map((e) => e.outerHTML.slice(0, 120))"""


def test_no_page_scrolls_sideways_and_all_that_can_be_used_has_a_name(
    open_page: Any, address: str, turn_to: Any
) -> None:
    page = open_page(f"{address}/#/overview")
    page.wait_for_selector("main[data-drawn]")
    for name, route in PAGES.items():
        turn_to(page, route)
        assert page.locator("main h1").count() == 1, name
        assert page.evaluate(NAMELESS) == [], name
        for width in (400, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            sizes = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
            assert sizes[0] <= sizes[1], f"{name} is {sizes[0]} wide on a screen of {width}"
