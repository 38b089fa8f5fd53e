"""Progress of training: bars on a terminal, plain lines elsewhere, few of them."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from agent_gym.cli import training
from agent_gym.cli.training import Display
from agent_gym.config import TrainConfig

STEP = {"success_rate": 0.5, "reward": 1.0, "entropy": 0.25, "tokens_per_second": 100.0, "groups_with_signal": 0.5}


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that goes when it is told to."""
    at = 0.0

    def wait(seconds: float) -> None:
        nonlocal at
        at += seconds

    monkeypatch.setattr(training.time, "monotonic", lambda: at)
    return wait


def shown(
    terminal: bool, steps: int, seconds: float, wait: Callable[[float], None], step: dict[str, float] = STEP
) -> str:
    written = io.StringIO()
    with Display(Console(file=written, force_terminal=terminal, width=120), TrainConfig()) as display:
        display.stage("training", steps)
        for _ in range(steps):
            wait(seconds)
            display.advance(step)
    return written.getvalue()


def test_without_a_terminal_lines_come_now_and_then_and_at_the_end(wait: Callable[[float], None]) -> None:
    note = "success 0.50  reward 1.00  entropy 0.25  100 tok/s"
    assert shown(False, 100, 4.0, wait).splitlines()[:3] == [
        "training: 100",
        f"  3/100  {note}  6 min left",
        f"  6/100  {note}  6 min left",
    ]
    assert shown(False, 3, 4.0, wait).splitlines() == ["training: 3", f"  3/3  {note}"]
    assert shown(False, 2, 15.0, wait).splitlines()[1:] == [f"  1/2  {note}  15 s left", f"  2/2  {note}"]


def test_on_a_terminal_a_bar_is_drawn_with_the_time_left(wait: Callable[[float], None]) -> None:
    said = shown(True, 4, 1.0, wait)
    assert "4/4" in said and "left" in said and "training: 4" not in said


@pytest.mark.parametrize(("success", "remedy"), [(0.0, "warm_start.episodes"), (1.0, "harder tasks")])
def test_an_agent_that_has_nothing_to_learn_from_is_told_of_once(
    success: float, remedy: str, wait: Callable[[float], None]
) -> None:
    idle = STEP | {"success_rate": success, "groups_with_signal": 0.0}
    for terminal in (False, True):
        said = shown(terminal, 10, 1.0, wait, idle)
        assert said.count("no group has rewards that differ") == 1 and remedy in said
    assert "no group has rewards that differ" in shown(False, 1, 1.0, wait, idle)
    assert "no group has rewards that differ" not in shown(False, 10, 1.0, wait, STEP | {"success_rate": 0.0})


def test_what_was_measured_is_summed_up(wait: Callable[[float], None]) -> None:
    written = io.StringIO()
    with Display(Console(file=written, width=120), TrainConfig()) as display:
        display.stage("before", 4)
        for success in (1.0, 0.0, 0.0, 0.0):
            display.advance({"success": success})
    assert written.getvalue().splitlines() == ["success before: 4", "  4/4  success 0.25"]
