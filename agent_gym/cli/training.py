"""`agent-gym train`: progress while it runs, and what came of it."""

import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agent_gym.cli.bars import progress
from agent_gym.config import TrainConfig
from agent_gym.config_files import load
from agent_gym.errors import ConfigError, MissingExtraError
from agent_gym.evaluation.statistics import wilson
from agent_gym.registry import find_spec
from agent_gym.rollout.score import Score
from agent_gym.sections import IN_PROCESS_KEYS, SERVER_KEYS, VLLM_KEYS, EngineSection

_LABELS = {"before": "success before", "after": "success after"}
_QUIET = 10.0
"""Seconds between two lines where no bar is drawn."""
_PATIENCE = 3
"""Steps without anything to learn from before that is said."""
_REMEDIES = {
    0.0: "failed: a warm start (warm_start.episodes), a stronger model or easier tasks give it a beginning",
    1.0: "succeeded: take harder tasks",
}


def run_training(
    path: Path | None,
    overrides: dict[str, Any],
    *,
    recipe_name: str | None,
    name: str | None,
    runs: Path,
    resume: bool,
    dry_run: bool = False,
) -> None:
    """Load the configuration, train, and print the result; in a dry run, rehearse and print what would be run."""
    base, overrides = with_recipe(overrides, recipe_name)
    config = load(TrainConfig, path, overrides, base=base)
    find_spec(config.env.id)  # A typo is told before torch is imported.
    console = Console()
    if dry_run:
        from agent_gym.cli.rehearsing import run_rehearsal

        run_rehearsal(console, config)
        return
    method = "+".join(map(_short, config.algorithm.name.split("+")))
    with Display(console, config) as display, ExitStack() as stack:
        from agent_gym.trainers.preparing import with_split
        from agent_gym.trainers.presets import make_algorithm
        from agent_gym.trainers.trainer import join_for, train

        processes = join_for(config)
        stack.callback(processes.part)
        # One process speaks, and chooses the name for all.
        console.quiet = not processes.is_main
        folder = processes.told(lambda: runs / name if name else _free_name(runs, f"{_short(config.env.id)}-{method}"))

        with processes.together():
            for note in make_algorithm(config.algorithm.name, config.algorithm.options).notes:
                console.print(f"[yellow]warning:[/yellow] {escape(note)}", soft_wrap=True)
            config = with_split(config)
        result = train(config, folder, resume=resume, listener=display, processes=processes)
        if not processes.is_main:
            return
    if result.before and result.after:
        console.print(_table(result.before, result.after, config))
    picture = _picture(result.metrics, folder, config)
    if picture:
        console.print(f"learning curve: {picture}", soft_wrap=True)
    console.print(f"run folder: {folder}  (episodes: agent-gym show {folder})", soft_wrap=True)
    if result.before and result.after:
        before, after = result.before.success_rate, result.after.success_rate
        console.print(f"success on unseen {noun(config.env.id)}s: {before:.2f} -> {after:.2f}")


def engine_keys(engine: str | None) -> dict[str, Any]:
    """Return what --engine sets: a kind, or the addresses of servers; what a recipe says for another kind goes."""
    if engine is None:
        return {}
    served = engine.startswith(("http://", "https://"))
    others = [*(() if served else SERVER_KEYS), *(() if engine == "vllm" else IN_PROCESS_KEYS)]
    if engine == "transformers":
        others += VLLM_KEYS
    default = EngineSection()
    keys = {f"engine.{name}": getattr(default, name) for name in others}
    if served:
        return {**keys, "engine.kind": "server", "engine.urls": engine.split(",")}
    return {**keys, "engine.kind": engine}


def with_recipe(overrides: dict[str, Any], name: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the named recipe of the algorithm says, and the overrides that go on top of it.

    An algorithm whose pieces are all in the recipe's picks the recipe: the recipe's own base stays under it.

    Raises:
        ConfigError: No algorithm is named.
        UnknownIdError: The algorithm has no such recipe.
    """
    if name is None:
        return {}, overrides
    algorithm = overrides.get("algorithm.name")
    if algorithm is None:
        raise ConfigError("A recipe belongs to an algorithm: give --algorithm, too (agent-gym algorithms lists them).")
    from agent_gym.trainers.recipes import recipe

    values = recipe(algorithm, name)
    if set(algorithm.split("+")) <= set(values["algorithm"]["name"].split("+")):
        overrides = {key: value for key, value in overrides.items() if key != "algorithm.name"}
    return values, overrides


class Display:
    """Draws a bar a stage; a listener of the trainer.

    Where there is no terminal, it prints a line now and then, and one at the end of each stage.
    """

    def __init__(self, console: Console, config: TrainConfig) -> None:
        self.console = console
        self.config = config
        self.bars = progress(console, width=15)
        self._bar: Any = None
        self._stage = ""
        self._done = 0
        self._total = 0
        self._idle = 0
        self._sums: dict[str, float] = {}
        self._began = self._told = 0.0

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.bars.stop()

    def stage(self, name: str, total: int) -> None:
        """See `Listener.stage`."""
        self._finish()
        self._stage, self._done, self._total, self._sums = name, 0, total, {}
        self._began = self._told = time.monotonic()
        self._bar = self.bars.add_task(_LABELS.get(name, name), total=total, note="")
        if not self.console.is_terminal:
            self.console.print(f"{_LABELS.get(name, name)}: {total}")

    def advance(self, metrics: dict[str, Any]) -> None:
        """See `Listener.advance`."""
        self._done += 1
        note = self._note(metrics)
        self.bars.update(self._bar, advance=1, note=note)
        now = time.monotonic()
        if not self.console.is_terminal and (self._done == self._total or now - self._told >= _QUIET):
            self._told = now
            self.console.print(f"  {self._done}/{self._total}  {note}{self._left(now)}", soft_wrap=True)
        if self._stage == "training":
            self._warn(metrics)

    def _warn(self, metrics: dict[str, Any]) -> None:
        """Say once that the agent cannot learn from what it gets; counted from the start, or from the resumption."""
        alike = metrics["groups_with_signal"] == 0 and metrics["success_rate"] in _REMEDIES
        self._idle += 1 if alike and self._idle == self._done - 1 else 0
        if alike and self._idle == self._done == min(_PATIENCE, self._total):
            said = f"no group has rewards that differ so far, as every episode {_REMEDIES[metrics['success_rate']]}."
            self.console.print(f"[yellow]warning:[/yellow] {said}", soft_wrap=True)

    def _left(self, now: float) -> str:
        left = (now - self._began) / self._done * (self._total - self._done)
        return f"  {left / 60:.0f} min left" if left >= 60 else f"  {left:.0f} s left" if left > 0 else ""

    def _note(self, metrics: dict[str, Any]) -> str:
        if self._stage == "training":
            return (
                f"success {metrics['success_rate']:.2f}  reward {metrics['reward']:.2f}  "
                f"entropy {metrics['entropy']:.2f}  {metrics['tokens_per_second']:.0f} tok/s"
            )
        for key, value in metrics.items():
            self._sums[key] = self._sums.get(key, 0.0) + value
        if "success" in self._sums:
            return f"success {self._sums['success'] / self._done:.2f}"
        return f"loss {metrics['loss']:.2f}" if "loss" in metrics else ""

    def _finish(self) -> None:
        """A demonstrator may solve fewer tasks than it plays; its bar is full all the same."""
        if self._bar is not None:
            self.bars.update(self._bar, completed=self._total)


def noun(env_id: str) -> str:
    """Return what a task of the environment is called."""
    from agent_gym.registry import resolve

    return str(getattr(resolve(find_spec(env_id).entry_point), "task_noun", "task"))


def _table(before: Score, after: Score, config: TrainConfig) -> Table:
    table = Table(title=f"{config.env.id}, split {config.measure.split}: {before.episodes} {noun(config.env.id)}s")
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="left" if not heading else "right")
    rows = {
        "success": lambda s: f"{s.success_rate:.2f}",
        "95% interval": lambda s: "{:.2f} - {:.2f}".format(*wilson(s.successes, s.episodes - s.failed)),
        "turns an episode": lambda s: f"{s.turns:.1f}",
        "actions that did nothing": lambda s: f"{s.invalid_actions:.0%}",
        "entropy (nats a token)": lambda s: f"{s.entropy:.2f}",
        "failed episodes": lambda s: str(s.failed),
    }
    for label, text in rows.items():
        table.add_row(label, text(before), text(after))
    return table


def _picture(records: list[dict[str, Any]], folder: Path, config: TrainConfig) -> Path | None:
    from agent_gym.evaluation.plots import learning_curve

    title = f"{config.algorithm.name} on {config.env.id}, seed {config.seed}"
    try:
        return learning_curve(records, folder / "learning_curve.png", title=title)
    except MissingExtraError as error:
        Console(stderr=True).print(f"no picture: {escape(str(error))}", soft_wrap=True)
        return None


def _free_name(runs: Path, stem: str) -> Path:
    """Return a folder that does not exist yet: stem-1, stem-2, ..."""
    number = 1
    while (runs / f"{stem}-{number}").exists():
        number += 1
    return runs / f"{stem}-{number}"


def _short(id: str) -> str:
    """Return what an id or a place is called, without its module or file."""
    return id.rpartition(":")[2].rpartition("/")[2].lower()
