"""`agent-gym eval`: progress while it runs, what came of it, and how to go on where it stopped."""

import sys
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import typer
from rich.console import Console

from agent_gym.cli.bars import progress
from agent_gym.cli.results import print_results
from agent_gym.config import TRAINING_KEYS, EvalConfig
from agent_gym.config_files import load, read_yaml
from agent_gym.errors import ConfigError
from agent_gym.evaluation.budgets import UsedUp
from agent_gym.evaluation.models import POLICIES
from agent_gym.evaluation.plans import Plan
from agent_gym.evaluation.resuming import stored_config
from agent_gym.evaluation.runner import Evaluation, evaluate
from agent_gym.rollout.score import Score
from agent_gym.store.texts import storable
from agent_gym.trajectory import Trajectory

_SHOWN_ERRORS = 3
_FLAGS = {"tokens": "--max-tokens-total", "cost": "--max-cost", "seconds": "--max-seconds"}
_INTERRUPTED = 130
"""The exit code of a command that was stopped by Ctrl-C."""
_LINES = 10
"""Lines of progress where there is no terminal, if it takes no longer than so many times `_QUIET`."""
_QUIET = 30.0
"""Seconds without a line, at most."""


def run_evaluation(
    path: Path | None, overrides: dict[str, Any], *, name: str | None, runs: Path, resume: bool, retry_failed: bool
) -> None:
    """Load the configuration, play, and print what came of it."""
    if (resume or retry_failed) and name is None:
        raise ConfigError("Which run is to be gone on with was not said: add --name.")
    stored = stored_config(runs / name) if name is not None and (resume or retry_failed) else {}
    if retry_failed and not stored:
        raise ConfigError(f"There is no run {runs / str(name)} whose failed episodes could be played again.")
    said = {**stored, **(read_yaml(path) if path is not None else {})}
    if "model" not in overrides and "model" not in said:
        if name is not None:
            _need_run(runs / name, resume)
        raise ConfigError(
            "No model was given: add --model with a model folder, a run folder, an address such as "
            "http://localhost:8000/v1, 'expert', 'random' or 'human'."
        )
    if "suites" in overrides or "suites" in said:
        taken = _settings_of_run(overrides, ("rollout",))
    else:
        taken = _settings_of_run(overrides, ("env", "rollout"))
    config = load(EvalConfig, path, taken | overrides, base=stored)
    folder = runs / name if name is not None else _free_name(runs, config)
    again = _again(folder, runs)
    console = Console()
    errors: Counter[str] = Counter()
    played = 0

    def heard(trajectory: Trajectory) -> None:
        nonlocal played
        played += 1
        errors.update([storable(trajectory.error)] if trajectory.error else [])

    try:
        one_by_one = config.model in POLICIES
        with Display(console, bars=config.model != "human", one_by_one=one_by_one) as display:
            result = evaluate(
                config, folder, resume=resume, retry_failed=retry_failed, listener=display, on_episode=heard
            )
    except KeyboardInterrupt:
        console.print(f"stopped: what has ended is stored; go on with {again}", soft_wrap=True, highlight=False)
        raise typer.Exit(_INTERRUPTED) from None
    print_results(console, folder, config.model)
    for error, count in errors.most_common(_SHOWN_ERRORS):
        console.print(f"{count} failed: {error}", style="yellow", markup=False, soft_wrap=True)
    if retry_failed and not played and not result.stopped:
        console.print("no episode had failed: none was played again", soft_wrap=True)
    _say_how_to_go_on(console, result, again)
    if result.score.episodes and result.score.failed == result.score.episodes:
        raise typer.Exit(1)


def _need_run(folder: Path, resume: bool) -> None:
    """Say what is wrong where a run is named and no model: the run is not there, or was not to be gone on with.

    Raises:
        ConfigError: It is either; not raised where a new run was meant.
    """
    if resume:
        raise ConfigError(f"There is no run {folder} to go on with: check --name and --runs, or begin it with --model.")
    if stored_config(folder):
        raise ConfigError(f"There is a run {folder}: add --resume to go on with it, or --model and another --name.")


def named_suites(given: list[str]) -> list[str]:
    """Return the names that `--suite` was given, which may stand with commas between them.

    Raises:
        ConfigError: There is none: what would be played was not meant.
    """
    names = [part.strip() for text in given for part in text.split(",") if part.strip()]
    if not names:
        raise ConfigError(f"--suite {given[0]!r} names no suite: leave it out, or see agent-gym suites.")
    return names


def price_of(given: str | None) -> list[str] | None:
    """Return the two prices that `--price` was given, as they were written.

    Raises:
        ConfigError: They are not two.
    """
    prices = given.split(",") if given else None
    if prices is not None and len(prices) != 2:
        raise ConfigError(
            f"--price takes dollars for a million tokens read and generated, as in 0.15,0.6; it was given {given!r}."
        )
    return prices


def _say_how_to_go_on(console: Console, result: Evaluation, again: str) -> None:
    played, planned = result.score.episodes, result.planned
    if result.stopped:
        raised, flag = higher(result.used_up)
        text = f"stopped by {result.stopped}: {played:,} of {planned:,} episodes; go on{raised} with {again}{flag}"
    elif played < planned:
        text = f"{planned - played:,} of {planned:,} episodes have not been played; go on with {again}"
    elif result.score.failed:
        text = f"failed episodes can be played again: {again.replace('--resume', '--retry-failed')}"
    else:
        return
    console.print(text, soft_wrap=True, highlight=False)


def higher(reached: UsedUp | None) -> tuple[str, str]:
    """Return how a limit that was reached is raised: the run remembers it, so that the flag must be given."""
    if reached is None:
        return "", ""
    more = str(reached.more) if isinstance(reached.more, int) else f"{reached.more:.6g}"
    return ", with a higher limit,", f" {_FLAGS[reached.limit]} {more}"


class Display:
    """Draws a bar a suite; a listener. Where there is no terminal, it prints a line now and then.

    Args:
        console: Where to draw.
        bars: Whether to draw bars on a terminal; a person who plays there needs it alone.
        one_by_one: Whether one episode is in flight at a time, whatever the configuration allows.
    """

    def __init__(self, console: Console, *, bars: bool = True, one_by_one: bool = False) -> None:
        self.console = console
        self.bars = progress(console, shown=bars)
        self._one_by_one = one_by_one
        self._in_flight = 1
        self._bar: Any = None
        self._title = ""
        self._done = self._total = self._won = self._failed = self._told = 0
        self._began = self._spoke = 0.0
        self._here = 0

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.bars.stop()

    def begin(self, plan: Plan, score: Score, count: int) -> None:
        """See `Listener.begin`."""
        self._title, self._total, self._here, self._told = plan.title, count, 0, 0
        self._in_flight = 1 if self._one_by_one else plan.suite.rollout.concurrency
        self._done, self._won, self._failed = score.episodes, score.successes, score.failed
        self._began = self._spoke = time.monotonic()
        self._bar = self.bars.add_task(plan.title, total=count, completed=self._done, note=self._note())
        if not self.console.is_terminal:
            there = f", {self._done:,} of them there already" if self._done else ""
            self._say(f"{plan.title}: {count:,} episodes{there}")

    def episode(self, trajectory: Trajectory) -> None:
        """See `Listener.episode`."""
        self._here += 1
        self._done = min(self._done + 1, self._total)
        if trajectory.error is not None:
            self._failed += 1
        else:
            self._won += trajectory.success
        if self.console.is_terminal:
            self.bars.update(self._bar, completed=self._done, note=self._note())
            return
        now = time.monotonic()
        share = self._done * _LINES // max(1, self._total)
        if share > self._told or now - self._spoke > _QUIET:
            self._told, self._spoke = share, now
            seconds = time_left(now - self._began, self._here, self._total - self._done, self._in_flight)
            self._say(f"  {self._done:,}/{self._total:,}  {self._note()}  {_duration(seconds)} left")

    def _note(self) -> str:
        counted = self._done - self._failed
        rate = f"success {self._won / counted:.2f}" if counted > 0 else ""
        return f"{rate}  {self._failed} failed" if self._failed else rate

    def _say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)
        sys.stdout.flush()


def time_left(seconds: float, ended: int, left: int, in_flight: int) -> float:
    """Return about how many seconds an evaluation still takes, at the moment at which an episode ends.

    Of those in flight one is just beginning, and the others are half done on average: of 64 at a time, the first one
    to end is by no means the only one that has got anywhere.

    Args:
        seconds: Since the first began.
        ended: Episodes that have ended since then, one at least.
        left: Those that have not, in flight or not begun.
        in_flight: How many there may be at a time.
    """
    half_done = max(0, min(in_flight, left) - 1) / 2
    return seconds / (ended + half_done) * (left - half_done)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _again(folder: Path, runs: Path) -> str:
    where = "" if runs == Path("runs") else f" --runs {runs}"
    return f"agent-gym eval --name {folder.name}{where} --resume"


def _free_name(runs: Path, config: EvalConfig) -> Path:
    """Return a folder that does not exist yet: eval-alfworld-1, eval-alfworld-2, ..."""
    subject = config.suites[0] if config.suites else config.env.id
    stem = "eval-" + Path(subject.rpartition(":")[2]).stem.lower()
    number = 1
    while (runs / f"{stem}-{number}").exists():
        number += 1
    return runs / f"{stem}-{number}"


def _settings_of_run(overrides: dict[str, Any], sections: tuple[str, ...]) -> dict[str, Any]:
    """A run's model is asked as it was trained: return these sections of the run's configuration as overrides."""
    path = Path(str(overrides.get("model", "")).removeprefix("vllm:")) / "config.yaml"
    if not path.is_file():
        return {}
    config = read_yaml(path).get("config", {})
    taken: dict[str, Any] = {}
    for section in sections:
        said = config.get(section, {}).items()
        taken |= {f"{section}.{key}": value for key, value in said if section != "rollout" or key not in TRAINING_KEYS}
    return taken
