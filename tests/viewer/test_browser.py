"""The page in a real browser: every page shows what is stored, and is reached as its users reach it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import episode, evaluation_run, make_run, train_config

from agent_gym.store.run import RunFolder
from agent_gym.trajectory import Trajectory

pytest.importorskip("starlette")
expect: Any = pytest.importorskip("playwright.sync_api").expect

GROUP = "train/2/g0"
METHOD = {"base_advantage": -0.5, "advantage": 0.25, "weight": 1.5, "log_ratio": 0.0}


def branched(step: int) -> list[Trajectory]:
    """Return a group of three: a success, a branch of it that failed the task, and an episode that broke off."""
    group, first = f"train/{step}/g0", f"train/{step}/g0e0"
    told = {"branch_probability": "0.62", "branch_entropy": "1.25", "initial_entropy": "0.4"}
    branch = episode(
        f"train/{step}/g0e1", group=group, turns=3, parent=first, branch_turn=1, metadata=told, action="push it"
    )
    broken = episode(f"train/{step}/g0e2", group=group, error="WorkerError: the door fell")
    return [episode(first, group=group, success=True, turns=3), branch, broken]


def measured(phase: str, step: int, rate: float) -> dict[str, Any]:
    return {"phase": phase, "step": step, "success_rate": rate, "reward": rate, "episodes": 20}


def trained(step: int, **more: Any) -> dict[str, Any]:
    entropy = {"entropy": 1.0 / step, "corridor_low": 0.1, "corridor_high": 1.5, "entropy_reference": 0.75}
    speed = {"rollout": 2.0, "update": 1.0, "tokens_per_second": 500.0 * step}
    numbers = {"success_rate": step / 4, "reward": step / 4, "kl": 0.01, "clip_fraction": 0.02, "failed": step}
    sizes = {"episodes": 3, "turns": 3.0, "generated_tokens": 90}
    return {"phase": "train", "step": step, **numbers, **entropy, **sizes, "odd_measure": 7.0, "seconds": speed, **more}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunFolder]:
    """Two training runs and two evaluations."""
    folder = tmp_path_factory.mktemp("runs")
    records = [measured("before", 0, 0.1), trained(1), trained(2), measured("after", 2, 0.6)]
    first = make_run(folder / "with_epo", [(step, "train", branched(step)) for step in (1, 2)], records)
    with first.trajectories() as store:
        length = len(store.get("train/2/g0e0").token_ids)
        spread = {name: [value] * length for name, value in METHOD.items()}
        spread["log_ratio"] = [0.02 * (place % 5 - 2) for place in range(length)]
        store.add_signals(2, {"train/2/g0e0": spread})
    played = [
        (step, phase, [episode(f"{phase}/{step}/g0e0", group=f"{phase}/{step}/g0", success=True)])
        for step, phase in ((1, "train"), (2, "after"))
    ]
    second = make_run(folder / "plain", played, [trained(1), trained(2)])
    won = [evaluation_run(folder / "eval_a", [0, 1, 2, 3]), evaluation_run(folder / "eval_b", [0, 4])]
    return [first, second, *won]


@pytest.fixture(scope="module")
def address(runs: list[RunFolder], serve: Callable[..., str]) -> str:
    return serve(*(run.path for run in runs))


def chart(page: Any, title: str) -> Any:
    return page.locator(f'figure[data-chart="{title}"]')


# -- overview ----------------------------------------------------------------------------------------------------------


def test_the_overview_says_what_the_run_is_and_draws_what_it_measured(open_page: Any, address: str) -> None:
    page = open_page(f"{address}/#/overview?runs=0")
    card = page.get_by_role("region", name="with_epo")
    expect(card).to_contain_text("2 of 10")
    expect(card).to_contain_text("10% → 60%")
    for title in ("Success", "Reward", "Entropy", "KL divergence", "Clip fraction", "Throughput", "Time", "Failures"):
        expect(chart(page, title).locator("svg.chart")).to_be_visible()
    expect(chart(page, "Loss")).to_have_count(0)  # nothing of it was logged
    expect(chart(page, "Success").locator("svg.chart circle.dot")).to_have_count(2)  # before and after
    expect(chart(page, "Entropy").locator("svg.chart path.band")).to_have_count(1)
    card.get_by_text("Configuration").click()
    expect(card).to_contain_text('"id": "doors"')


def test_a_chart_tells_its_values_to_the_pointer_to_the_keyboard_and_in_a_table(open_page: Any, address: str) -> None:
    page = open_page(f"{address}/#/overview?runs=0")
    picture = chart(page, "Entropy").locator("svg.chart")
    box = picture.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 40)
    tip = page.locator("#tooltip")
    expect(tip).to_contain_text("step 2")
    expect(tip).to_contain_text("0.5")
    expect(tip).to_contain_text("0.1 \u2013 1.5")
    page.mouse.move(5, 5)
    expect(tip).to_be_hidden()
    picture.focus()
    page.keyboard.press("ArrowLeft")
    expect(tip).to_contain_text("step 1")
    chart(page, "Entropy").get_by_text("As a table").click()
    expect(chart(page, "Entropy").locator("tbody tr").last).to_contain_text("0.75")


def test_a_step_of_a_chart_leads_to_its_groups_and_back_is_the_chart(open_page: Any, address: str) -> None:
    page = open_page(f"{address}/#/overview?runs=0,1")
    picture = chart(page, "KL divergence").locator("svg.chart")
    box = picture.bounding_box()
    page.mouse.click(box["x"] + 60, box["y"] + 60)
    expect(page.locator(".total")).to_have_text("1 group")
    assert "step=1" in page.url and "run=with_epo" in page.url
    page.get_by_label("Rewards").select_option("all equal: no signal")
    expect(page.locator(".empty")).to_contain_text("No group matches")
    page.go_back()
    picture.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Step", exact=True)).to_have_value("2")


def test_measures_without_a_chart_of_their_own_are_found_under_more(open_page: Any, address: str) -> None:
    page = open_page(f"{address}/#/overview?runs=0")
    page.get_by_text("More measures").click()
    expect(chart(page, "odd measure").locator(".latest")).to_have_text("7")


def test_runs_are_laid_over_each_other_and_taken_away_and_curves_are_smoothed(open_page: Any, address: str) -> None:
    page = open_page(f"{address}/#/overview?runs=0,1")
    expect(chart(page, "KL divergence").locator("svg.chart path.curve[data-name]")).to_have_count(2)
    page.locator("#smooth").fill("0.5")
    expect(chart(page, "KL divergence").locator("path.faint")).to_have_count(2)
    page.get_by_role("button", name="plain").click()
    expect(chart(page, "KL divergence").locator("svg.chart path.curve[data-name]")).to_have_count(1)
    assert "runs=with_epo&smooth=0.5" in page.url
    page.reload()
    expect(chart(page, "KL divergence").locator("path.faint")).to_have_count(1)


# -- groups ------------------------------------------------------------------------------------------------------------


def test_one_clicks_from_the_overview_to_an_episode_and_comes_back(open_page: Any, address: str) -> None:
    page = open_page(f"{address}/#/overview?runs=0")
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Groups").click()
    expect(page.locator(".total")).to_have_text("2 groups")
    page.get_by_role("link", name=GROUP).click()
    expect(page.locator("h1")).to_have_text("the goal of t0")
    page.locator(f'[data-leaf="{GROUP}e1"]').click()
    expect(page.locator(".branches")).to_contain_text(
        f"Left {GROUP}e0 before turn 2 (p = 0.62, entropy 1.25, at first 0.4)."
    )
    page.get_by_role("link", name=f"{GROUP}e0").click()
    expect(page.locator(".badge.success").first).to_have_text("✓ success")
    expect(page.locator(".branches")).to_contain_text(f"{GROUP}e1 left it before turn 2")
    page.go_back()
    page.go_back()
    expect(page.locator("h2").first).to_have_text("Branch tree")


def test_groups_of_training_come_before_those_of_measurements(open_page: Any, address: str) -> None:
    page = open_page(f"{address}/#/groups?run=1")
    expect(page.get_by_label("Phase")).to_have_value("train")
    expect(page.locator(".total")).to_have_text("1 group")
    page.get_by_label("Phase").select_option("all")
    expect(page.locator(".total")).to_have_text("2 groups")


def test_the_branch_tree_shows_forks_with_their_cause_and_rewards_at_the_leaves(open_page: Any, address: str) -> None:
    page = open_page(f"{address}/#/group?run=0&id={GROUP}")
    tree = page.locator("svg.tree")
    expect(tree.locator(".fork-text")).to_have_text("↳ p = 0.62, entropy 1.25, at first 0.4")
    expect(tree.locator(".leaf")).to_have_count(3)
    expect(tree.locator(".leaf.success .leaf-text")).to_have_text("1")
    expect(tree.locator(".leaf.failed .leaf-sign")).to_have_text("!")
    # The branch begins where it left its parent: two of three turns are its own.
    expect(tree.locator(".tree-turn")).to_have_count(3 + 2 + 2)
    tree.locator("circle.fork").hover()
    expect(page.locator("#tooltip")).to_contain_text("branch probability")
    fork, below = (tree.locator(name).bounding_box() for name in ("circle.fork", ".leaf.wrong"))
    assert fork["y"] < below["y"], "a branch stands below its parent"


def test_attempts_stand_side_by_side_turn_by_turn(open_page: Any, address: str) -> None:
    page = open_page(f"{address}/#/group?run=0&id={GROUP}")
    table = page.locator(".side-by-side table")
    expect(table.locator("thead th")).to_have_count(4)
    second = table.locator("tbody tr").nth(1)
    expect(second.locator("td")).to_contain_text(["open it 1", "push it 1", "open it 1"])
    expect(table.locator("tbody tr").first.locator("td.shared")).to_have_count(1)
    expect(table.locator("tr.ends")).to_contain_text("the door fell")


# -- episode -----------------------------------------------------------------------------------------------------------


def test_an_episode_is_a_conversation_with_rewards_timings_and_what_the_method_did(
    open_page: Any, address: str
) -> None:
    page = open_page(f"{address}/#/episode?run=0&id={GROUP}e0")
    turns = page.locator("article.turn")
    expect(turns).to_have_count(3)
    expect(turns.first).to_contain_text("you see a door")
    expect(turns.first.locator(".tokens")).to_contain_text("open it 0")
    expect(turns.last.locator(".badge.success")).to_have_text("reward +1")
    expect(turns.first.locator(".timings")).to_contain_text("out")
    expect(turns.first.locator(".measures")).to_contain_text("advantage\u22120.5 → +0.25")
    expect(turns.first.locator(".measures")).to_contain_text("weight")
    state = page.get_by_role("complementary", name="Environment")
    expect(state).to_contain_text("the end")
    turns.first.focus()
    expect(state).to_contain_text("after turn 1")
    assert "turn=1" in page.url
    page.get_by_text("Metadata").click()
    expect(page.locator("#metadata")).to_contain_text('"task_id": "t0"')


def test_tokens_take_the_colour_of_the_chosen_value_and_tell_all_of_them(open_page: Any, address: str) -> None:
    page = open_page(f"{address}/#/episode?run=0&id={GROUP}e0")
    own = page.locator("article.turn").first.locator(".token.own")
    expect(own.nth(3)).to_have_class("token own tone-one")
    colours = {}
    for name in ("entropy", "advantage", "log_ratio", "weight", "log-probability"):
        page.get_by_label("Colour tokens by").select_option(name)
        expect(page.locator(".scale")).to_be_visible()
        colours[name] = [own.nth(place).evaluate("e => getComputedStyle(e).backgroundColor") for place in (0, 1, 4)]
    assert len({tuple(found) for found in colours.values()}) >= 4, colours
    assert len(set(colours["log_ratio"])) == 3, "two signs and two strengths are three colours"
    assert "colour=log-probability" in page.url
    own.nth(4).hover()
    for word in ('" "', f"token {ord(' ')}", "mask 1", "entropy", "0.04", "base advantage", "\u22120.5"):
        expect(page.locator("#tooltip")).to_contain_text(word)


def test_all_turns_are_seen_at_a_glance_and_tokens_are_reached_by_keyboard(open_page: Any, address: str) -> None:
    page = open_page(f"{address}/#/episode?run=0&id={GROUP}e0")
    strip = page.locator("svg.strip")
    expect(strip.locator("[data-strip]")).to_have_count(3)
    expect(strip.locator(".strip-reward")).to_have_count(1)
    strip.locator("[data-strip='2']").click()
    expect(page.locator("#turn-2")).to_be_focused()
    assert "turn=2" in page.url
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tooltip")).to_contain_text('"o"')
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tooltip")).to_contain_text('"p"')
    page.get_by_role("button", name="reward +1 in turn 3").click()
    expect(page.locator("#turn-3")).to_be_focused()
    expect(strip.locator(".here")).to_have_attribute("data-strip", "3")


def test_the_action_mask_is_seen_where_context_is_shown(open_page: Any, address: str) -> None:
    page = open_page(f"{address}/#/episode?run=0&id={GROUP}e0")
    context = page.locator("article.turn").nth(1).locator(".token.context")
    expect(context.first).to_be_hidden()
    page.get_by_label("Context tokens").check()
    expect(context.first).to_be_visible()
    context.first.hover()
    expect(page.locator("#tooltip")).to_contain_text("mask 0")


# -- episodes ----------------------------------------------------------------------------------------------------------


def test_filters_narrow_the_table_and_stand_in_the_address(open_page: Any, address: str) -> None:
    page = open_page(f"{address}/#/episodes?run=0")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(6)
    page.get_by_label("Outcome").select_option("failed to run")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("the door fell")
    page.get_by_label("Step").fill("1")
    expect(rows).to_have_count(1)
    page.reload()
    expect(rows).to_have_count(1)
    assert "failed=1" in page.url and "step=1" in page.url
    page.get_by_label("Step").fill("")
    expect(rows).to_have_count(2)
    rows.first.get_by_role("link").click()
    page.get_by_role("link", name="next").click()  # of those that failed
    expect(page.locator(".error-box")).to_contain_text("the door fell")
    assert "id=train%2F1%2Fg0e2" in page.url
    page.keyboard.press("u")
    expect(rows).to_have_count(2)
    page.get_by_role("button", name="Clear all").click()
    expect(rows).to_have_count(6)
    page.get_by_label("Reward from").fill("0.5")
    expect(rows).to_have_count(2)
    page.get_by_label("Search").fill("no such words")
    expect(page.locator(".empty")).to_contain_text("No episode matches")
    assert page.evaluate("document.activeElement.name") == "q", "one goes on typing while the table changes"


def test_more_episodes_come_as_one_scrolls(open_page: Any, serve: Callable[..., str], tmp_path: Path) -> None:
    many = [episode(f"train/1/{index:03}", turns=1 + index % 3) for index in range(120)]
    many[0] = episode("train/1/000", turns=80, observation="x" * 300)
    page = open_page(f"{serve(make_run(tmp_path / 'many', [(1, 'train', many)]).path)}/#/episodes?run=0")
    rows = page.locator("tbody tr")
    expect(page.locator(".total")).to_have_text("120 episodes")
    assert rows.count() < 120
    while (shown := rows.count()) < 120:
        page.keyboard.press("End")
        expect(rows).not_to_have_count(shown)
    assert len(set(page.locator("tbody td.id").all_inner_texts())) == 120
    # Who comes back from an episode finds the place: its row, among as many as were there.
    page.get_by_role("link", name="train/1/003").click()
    expect(page.locator("article.turn")).to_have_count(1)
    page.go_back()
    expect(rows).to_have_count(120)
    assert "train/1/003" in page.evaluate("document.activeElement.innerText")
    assert page.evaluate("scrollY") > 1000
    page.get_by_label("Order").select_option("most turns")
    expect(rows.first.locator("td").nth(4)).to_have_text("80")
    # A link to a turn that is not in the first part of a long episode.
    page.goto(page.url.split("#")[0] + "#/episode?run=0&id=train/1/000&turn=75")
    expect(page.locator("#turn-75")).to_be_focused()


# -- evaluation --------------------------------------------------------------------------------------------------------


def test_an_evaluation_shows_rates_with_intervals_by_kind_of_task(open_page: Any, address: str) -> None:
    page = open_page(f"{address}/#/evaluation?run=2")
    suite = page.get_by_role("region", name="doors/dev")
    expect(suite.locator(".headline")).to_contain_text("66.7%")
    rows = suite.locator("tbody tr[data-row]")
    expect(rows).to_have_count(3)
    expect(rows.nth(0)).to_contain_text("12 at 6 tasks")
    expect(rows.nth(1)).to_contain_text("even")
    expect(rows.nth(1).locator("svg.whiskers path.whisker")).to_have_count(1)
    expect(suite.locator(".chart-card")).to_contain_text("pass@k")
    rows.nth(2).get_by_role("link", name="odd").click()
    expect(page.locator(".total")).to_have_text("6 episodes")


def test_two_runs_are_compared_and_their_attempts_looked_at_side_by_side(open_page: Any, address: str) -> None:
    page = open_page(f"{address}/#/evaluation?run=2")
    page.get_by_label("Compare with").select_option("eval_b")
    section = page.get_by_role("region", name="Comparison")
    expect(section.locator(".sentence")).not_to_be_empty()
    expect(section.locator(".facts")).to_contain_text("\u221233.3 points")
    expect(section.locator(".difference-line svg")).to_be_visible()
    differing = section.get_by_role("table", name="Tasks on which the runs differ").locator("tbody tr")
    expect(differing).to_have_count(4)  # 1, 2 and 3 of the first, 4 of the second
    differing.filter(has_text="t4").get_by_role("link", name="side by side").click()
    expect(page.locator(".pair section")).to_have_count(2)
    expect(page.locator(".pair")).to_contain_text("open it 1")
    page.get_by_role("link", name="open the episode").last.click()
    expect(page.locator("h1")).to_have_text("the goal of t4")
    assert "run=eval_b" in page.url


# -- nothing there -----------------------------------------------------------------------------------------------------


def test_a_run_without_anything_and_an_unknown_episode_are_told_in_a_sentence(
    open_page: Any, serve: Callable[..., str], tmp_path: Path
) -> None:
    place = serve(make_run(tmp_path / "new", config=train_config()).path)
    page = open_page(f"{place}/#/overview")
    for name, sentence in (
        ("overview", "No step is finished yet"),
        ("groups", "No episode"),
        ("episodes", "No episode"),
    ):
        page.goto(f"{place}/#/{name}?run=0")
        expect(page.locator(".empty")).to_contain_text(sentence)
    page.goto(f"{place}/#/nowhere")
    expect(page.get_by_role("alert")).to_contain_text("There is no such page")
    page.goto(f"{place}/#/groups?run=gone")
    expect(page.get_by_role("alert")).to_contain_text("There is no run gone")
    page.goto(f"{place}/#/episode?run=0&id=lost")
    expect(page.get_by_role("alert")).to_contain_text("lost")
    broken = make_run(tmp_path / "broken", config=train_config()).path
    (broken / "trajectories.sqlite").write_bytes(b"garbage " * 200)
    lost = open_page(f"{serve(broken)}/#/overview")
    expect(lost.locator(".error-box")).to_contain_text("cannot be read")
    # The console tells of the answer's status, and of nothing else.
    assert len(page.problems) == 1 and "404" in page.problems.pop()
