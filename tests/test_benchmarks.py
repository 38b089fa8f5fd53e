"""The benchmarks that compare with others do on both sides what they say, and run where there is little to run on."""

import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"
Load = Callable[[str], Any]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def test_both_sides_of_the_comparison_with_trl_play_the_same(load: Load) -> None:
    household = load("trl_household")
    ours, theirs = household.CalledAlfworld(max_turns=4), household.Household(4)
    task = ours.tasks("train")[0].id
    type(theirs).tasks = (task,)
    observation, _ = ours.reset(seed=5, options={"task": task})
    assert theirs.reset(slot=0, prompt=[]) == observation
    place = observation.partition("you see a ")[2].partition(",")[0]
    rewards = 0.0
    for action in (f"go to {place}", "inventory", "inventory"):
        observation, reward, *_ = ours.step(household.written(action))
        rewards += reward
        assert theirs.act(action) == observation
    last, reward, terminated, truncated, _ = ours.step("no call at all")
    assert theirs.act("") == f"{last}\n{household.ENDED}" and truncated and not terminated
    assert theirs.get_reward() == pytest.approx(rewards + reward)
    assert rewards == pytest.approx(2 * household.NOVELTY)
    with pytest.raises(ValueError, match="ended"):
        theirs.act("inventory")


@pytest.mark.parametrize(
    "generated",
    [
        "go to drawer 1",
        "<tool_call>\n{broken}\n</tool_call>",
        '<tool_call>\n{"name": "act", "arguments": {"action": "look"}}',
        '<tool_call>\n{"name": "run", "arguments": {"action": "look"}}\n</tool_call>',
        '<tool_call>\n{"name": "act", "arguments": {"action": 3}}\n</tool_call>',
        '<tool_call>\n["act"]\n</tool_call>',
        '<tool_call>\n{"name": "act"}\n</tool_call>',
    ],
)
def test_what_calls_no_tool_is_no_action(load: Load, generated: str) -> None:
    assert load("trl_household").read(generated) == ""


def test_a_written_call_is_read_again(load: Load) -> None:
    household = load("trl_household")
    assert household.read(household.written('say "hm" to drawer 1')) == 'say "hm" to drawer 1'


def test_a_part_that_calls_itself_is_measured_once(load: Load) -> None:
    class Countdown:
        def run(self, left: int) -> int:
            return left and self.run(left - 1)

    clock = load("trl_pace").Clock()
    clock.wrap(Countdown, "run", "all")
    calls: list[float] = []
    clock.spent["all"] = _Noted(calls)
    assert Countdown().run(5) == 0
    assert len(calls) == 2


class _Noted(list[float]):
    """Two sums that remember how often they were added to."""

    def __init__(self, calls: list[float]) -> None:
        super().__init__([0.0, 0.0])
        self._calls = calls

    def __setitem__(self, index: Any, value: Any) -> None:
        self._calls.append(value)
        super().__setitem__(index, value)


def test_without_a_gpu_its_benchmark_says_so(
    load: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    load("gpu").main()
    (line,) = capsys.readouterr().out.splitlines()
    assert "no GPU" in line and "--device cpu" in line


def test_the_benchmark_of_the_gpu_runs_reduced_on_the_cpu(
    load: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu"])
    load("gpu").main()
    lines = [line[21:].split() for line in capsys.readouterr().out.splitlines()[3:]]
    assert [line[0] for line in lines] == ["sampling", "update"] * 2
    assert all(float(value) > 0 for line in lines for value in line[1:3])
    assert "one row at a time" not in caplog.text


def test_what_nvidia_smi_says_inside_the_block_is_kept(
    load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said_all, program = tmp_path / "said", tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho 40\necho '[N/A]'\necho 60\ntouch {said_all}\nread never\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    said: list[float] = []
    until = time.monotonic() + 20
    with load("gpu").watching(said):
        while not said_all.exists() and time.monotonic() < until:
            time.sleep(0.005)
    assert said == [40, 60]


def test_storage_is_timed_by_itself_in_what_an_evaluation_costs(load: Load) -> None:
    clock, processor, stored_clock, stored_processor = load("inspect_overhead").ours(2, 3, 2)
    assert 0 < stored_clock < clock and 0 < stored_processor < processor
