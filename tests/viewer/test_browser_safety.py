"""What an episode contains is shown and never run; what a report holds is shown without a network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import episode, eval_config, evaluation_run, make_run

pytest.importorskip("starlette")
expect: Any = pytest.importorskip("playwright.sync_api").expect

ATTACKS = (
    "<script>window.taken = 1</script>",
    "</script><script>window.taken = 2</script>",
    "<img src=x onerror='window.taken = 3'>",
    '<a href="javascript:window.taken = 4">click</a>',
    "<svg onload='window.taken = 5'></svg>",
    "<style>body { display: none }</style>",
    "<iframe srcdoc='<script>parent.taken = 6</script>'></iframe>",
    "<base href='http://127.0.0.1:1/'><meta http-equiv=refresh content='0;url=http://127.0.0.1:1/'>",
    "\"' onmouseover='window.taken = 7' x='",
    "<!-- {{7*7}} ${window.taken = 8} ]]>",
)
ATTACK = "".join(ATTACKS)
WATCH = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => window.violations.push(event.violatedDirective));
"""


def hostile(phase: str, attempt: int, **values: Any) -> Any:
    """Return an episode that attacks from every text that it has."""
    bad = episode(
        f"{phase}/{ATTACK}/{attempt}",
        task=f"task {ATTACK}",
        group=f"{phase}/{ATTACK}",
        observation=f"seen {ATTACK}",
        action=f"did {ATTACK}",
        metadata={"task_type": f"kind {ATTACK}", ATTACK: ATTACK, "answer": f"answer {ATTACK}", "truncated_by": ATTACK},
        **values,
    )
    bad.goal, bad.env_id, bad.final_observation = f"goal {ATTACK}", ATTACK, f"final {ATTACK}"
    for turn in bad.turns:
        turn.finish_reason, turn.tool_calls = ATTACK, 1
    return bad


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A training run and two evaluations that are nothing but attacks."""
    folder = tmp_path_factory.mktemp("hostile")
    config = {
        "env": {"id": ATTACK},
        "model": {"path": ATTACK},
        "algorithm": {"name": ATTACK},
        "steps": 1,
        ATTACK: ATTACK,
    }
    first = hostile("train", 0)
    batch = [first, hostile("train", 1, error=f"error {ATTACK}"), hostile("train", 2, parent=first.id, branch_turn=1)]
    record = {"phase": "train", "step": 1, "success_rate": 0.5, ATTACK: 1.0, "seconds": {ATTACK: 2.0}}
    runs = [make_run(folder / "<img src=x onerror=alert(1)>", [(1, "train", batch)], [record], config=config)]
    for name, success in (("a", True), ("b", False)):
        episodes = [hostile("eval", number, success=success) for number in range(2)]
        runs.append(make_run(folder / f"{name}<script>alert(1)", [(0, "eval", episodes)], config=eval_config()))
    return [run.path for run in runs]


def routes(page: Any) -> dict[str, str]:
    """Return the address of each page, and a word that it shows."""
    episode = page.evaluate("id => gym.href('episode', { run: 0, id })", f"train/{ATTACK}/0")
    group = page.evaluate("id => gym.href('group', { run: 0, id })", f"train/{ATTACK}")
    pair = page.evaluate("id => gym.href('evaluation', { run: 1, with: 2, left: id, right: id })", f"eval/{ATTACK}/0")
    lists = {f"#/{name}?run=0": "<script>window.taken = 1</script>" for name in ("episodes", "groups", "overview")}
    compared = {"#/evaluation?run=1&with=2": "goal <script>", pair: "did <script>"}
    return {**lists, group: "goal <script>", episode: "seen <script>", **compared}


TRACES = """() => {
  const count = (selector) => document.querySelectorAll(selector).length;
  const all = [...document.querySelectorAll("*")];
  return {
    taken: window.taken ?? null,
    violations: window.violations,
    hidden: getComputedStyle(document.body).display === "none",
    elements: count("main :is(script, style, iframe, base, meta, img)"),
    links: all.filter((e) => e.protocol === "javascript:").length,
    handlers: all.filter((e) => [...e.attributes].some((one) => one.name.startsWith("on"))).length,
  };
}"""


def nothing_ran(page: Any) -> None:
    quiet = {"taken": None, "violations": [], "hidden": False, "elements": 0, "links": 0, "handlers": 0}
    assert page.evaluate(TRACES) == quiet


def test_an_episode_of_attacks_is_shown_as_text_on_every_page_and_runs_nothing(
    open_page: Any, serve: Callable[..., str], attacked: list[Path], turn_to: Any
) -> None:
    page = open_page(f"{serve(*attacked)}/#/overview?run=1")
    page.add_init_script(WATCH)
    page.reload()
    page.wait_for_selector("main[data-drawn]")
    for route, word in routes(page).items():
        turn_to(page, route)
        expect(page.locator("main")).to_contain_text(word)
        for summary in page.locator("main summary").all():
            summary.click()
        for hovered in page.locator("main .token.own, main .fork, main .leaf, main svg.chart").all()[:3]:
            hovered.hover(force=True)
        nothing_ran(page)


def test_a_report_is_looked_at_without_a_network_and_runs_nothing_of_the_episodes(
    open_page: Any, attacked: list[Path], tmp_path: Path, turn_to: Any
) -> None:
    from agent_gym.viewer.export import export

    export(attacked, tmp_path / "report.html")
    page = open_page((tmp_path / "report.html").as_uri(), offline=True)
    page.wait_for_selector("main[data-drawn]")
    for route, word in routes(page).items():
        turn_to(page, route)
        expect(page.locator("main")).to_contain_text(word)
        assert page.evaluate("window.taken ?? null") is None


def test_lists_of_a_report_can_be_filtered_and_what_it_does_not_hold_is_told(open_page: Any, tmp_path: Path) -> None:
    from agent_gym.viewer.export import export

    runs = [evaluation_run(tmp_path / name, won).path for name, won in (("a", [0, 1]), ("b", [1]))]
    export(runs, tmp_path / "report.html")
    page = open_page((tmp_path / "report.html").as_uri(), offline=True)
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Episodes").click()
    expect(page.locator("tbody tr")).to_have_count(12)
    page.get_by_label("Outcome").select_option("success")
    expect(page.locator("tbody tr")).to_have_count(4)
    page.locator("tbody tr").first.get_by_role("link").first.click()
    expect(page.locator("article.turn").first.locator(".token.own").first).to_be_visible()
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Evaluation").click()
    expect(page.get_by_role("region", name="doors/dev").locator(".headline")).to_contain_text("33.3%")
    page.get_by_label("Compare with").select_option("b")
    expect(page.locator(".sentence")).not_to_be_empty()
    page.evaluate("location.hash = '#/episode?run=0&id=lost'")
    expect(page.get_by_role("alert")).to_contain_text("agent-gym view")
