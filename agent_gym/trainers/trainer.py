"""The training run: warm start, then step after step of collecting, comparing and updating; kept on disk throughout.

Everything random follows from the run's seed and the step's number, so that a run which was killed goes on with the
numbers that it would have had.
"""

import asyncio
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from agent_gym.config import TrainConfig
from agent_gym.config_files import as_dict
from agent_gym.engines.loading import load_model
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.errors import ConfigError, StoreError, TrainingError
from agent_gym.registry import held_out_split, make
from agent_gym.rollout.actions import syntax
from agent_gym.rollout.score import Score, score
from agent_gym.rollout.seeds import derive_seed
from agent_gym.store import checkpoints
from agent_gym.store.atomic import new_folder
from agent_gym.store.holding import held
from agent_gym.store.run import RunFolder
from agent_gym.store.tracking import check_trackers, tracked
from agent_gym.store.trajectories import TrajectoryStore
from agent_gym.trainers.algorithm import Progress
from agent_gym.trainers.learner import Learner
from agent_gym.trainers.listening import Listener, Silence
from agent_gym.trainers.policy import Policy, load_policy
from agent_gym.trainers.presets import make_algorithm
from agent_gym.trainers.sampling import Sampler
from agent_gym.trainers.update import UpdateSettings
from agent_gym.trainers.warmstart import CloneSettings, clone, demonstration_settings, play_demonstrations
from agent_gym.trajectory import Trajectory

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run came to."""

    folder: Path
    before: Score | None
    """Success on the measured split before reinforcement learning (after the warm start)."""
    after: Score | None
    """Success at the end."""
    metrics: list[dict[str, Any]]
    """The records of metrics.jsonl."""


def train(
    config: TrainConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    listener: Listener | None = None,
) -> RunResult:
    """Train a policy and keep everything in a run folder.

    Args:
        config: What to do.
        folder: Where to keep it.
        resume: Go on with the run in the folder, if there is one, from its last checkpoint.
        listener: Hears of progress.

    Returns:
        The folder, the success before and after, and all metrics.

    Raises:
        AgentGymError: Something named in the message cannot be done.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    path = Path(folder)
    config = with_split(config)
    _check(config)
    check_trackers(config.tracking)
    run = _existing(config, path) if resume else None
    # The model comes before the folder: what cannot be loaded leaves nothing behind.
    policy = load_policy(config, run)
    run = run or RunFolder.create(path, as_dict(config))
    try:
        with held(run.path):
            return Trainer(config, run, policy, listener or Silence()).run()
    except (ConfigError, TrainingError):
        if not run.checkpoints():
            # It could not even begin: nothing is worth resuming, and the name is free for the next try.
            shutil.rmtree(run.path, ignore_errors=True)
        raise


def _existing(config: TrainConfig, path: Path) -> RunFolder | None:
    """Return the run in the folder, if there is one and it was started with the same configuration."""
    if not (path / "config.yaml").is_file():
        return None
    run = RunFolder.open(path)
    stored = run.config
    for key, value in as_dict(config).items():
        # Who is told, and what is kept besides, changes nothing about the run.
        if key not in ("tracking", "signals") and stored.get(key) != value:
            raise ConfigError(
                f"The run in {path} was started with another {key!r}: resume it with its own configuration, or choose "
                "another --name."
            )
    return run


def _check(config: TrainConfig) -> None:
    """Find what is wrong before a folder is made or a model is loaded."""
    algorithm = make_algorithm(config.algorithm.name, config.algorithm.options)
    for note in algorithm.notes:
        logger.warning(note)
    syntax(config.rollout.syntax)
    with closing(make(config.env.id, **config.env.options)) as env:
        split = config.measure.split or env.held_out_split
        if config.measure.tasks and not env.tasks(split):
            raise ConfigError(f"The environment {config.env.id!r} has no tasks in the split {split!r}.")
        algorithm.rollout.check(env)


def with_split(config: TrainConfig) -> TrainConfig:
    """Return the configuration with its measured split named: what the environment holds out, where none is."""
    if config.measure.split is not None or not config.measure.tasks:
        return config
    split = held_out_split(config.env.id, config.env.options)
    return config.model_copy(update={"measure": config.measure.model_copy(update={"split": split})})


class Trainer:
    """One run. Use `train` unless you want to look inside.

    Args:
        config: What to do.
        run: Where it is kept; where it holds a checkpoint, training goes on from there.
        policy: The policy of that checkpoint, see `load_policy`.
        listener: Hears of progress.
    """

    def __init__(self, config: TrainConfig, run: RunFolder, policy: Policy, listener: Listener) -> None:
        self.config = config
        self.run_folder = run
        self.policy = policy
        self.listener = listener
        self.algorithm = make_algorithm(config.algorithm.name, config.algorithm.options)
        self.accelerator = Accelerator()
        self.policy.model.to(self.accelerator.device)
        self.engine = TransformersEngine(policy.model, policy.tokenizer, max_batch=config.rollout.concurrency)
        self.sampler = Sampler(config, self.engine, policy.chat, self.algorithm.rollout)
        self.learner: Learner | None = None
        self.step = -1
        """Steps done; -1 before the warm start."""
        self._saved: dict[str, Any] = {}
        done = run.checkpoints()
        if done:
            self.step = done[-1]
            self._saved = checkpoints.load_state(run.checkpoint_path(self.step))

    def run(self) -> RunResult:
        """Do what is left to do, and sum up."""
        run = self.run_folder
        if not self._finished():
            run.rewind(self.step)
        with tracked(run, self.config.tracking), run.trajectories() as store, self.sampler, self._progress():
            if self.step < 0:
                self._warm_start()
                self._measure(store, "before", self.config.measure.tasks)
                self.step = 0
                self._save()
            self._train(store)
            if not self._finished():
                self._measure(store, "after", self.config.measure.tasks)
        records = run.metrics()
        return RunResult(run.path, _score_of(records, "before"), _score_of(records, "after"), records)

    # -- stages ----------------------------------------------------------------------------------------------------

    def _warm_start(self) -> None:
        section = self.config.warm_start
        if not section.episodes:
            return
        started = time.perf_counter()
        self.listener.stage("demonstrations", section.episodes)
        settings = demonstration_settings(section)
        played = []
        seed = derive_seed(self.config.seed, "warm start")
        for trajectory in play_demonstrations(self.config, self.policy.chat, settings, seed=seed):
            played.append(trajectory)
            self.listener.advance({})
        steps = section.epochs * -(-len(played) // section.batch_size)
        self.listener.stage("warm start", steps)
        loss = clone(
            self.policy.model,
            played,
            CloneSettings(
                epochs=section.epochs,
                batch_size=section.batch_size,
                optimizer=section.optimizer,
                learning_rate=section.learning_rate,
                observation_weight=section.observation_weight,
            ),
            seed=self.config.seed,
            accelerator=self.accelerator,
            on_step=lambda step, total, loss: self.listener.advance({"loss": loss}),
        )
        record = {"phase": "warm_start", "step": 0, "episodes": len(played), "loss": loss}
        self.run_folder.log(record | {"seconds": {"total": time.perf_counter() - started}})

    def _train(self, store: TrajectoryStore) -> None:
        config = self.config
        if self.step >= config.steps:
            return
        self.learner = learner = self._make_learner()
        self.listener.stage("training", config.steps - self.step)
        while self.step < config.steps:
            record = self._one_step(store, learner)
            self.run_folder.log(record)
            numbers = {key: value for key, value in record.items() if isinstance(value, float)}
            self.listener.advance(numbers | {"tokens_per_second": record["seconds"]["tokens_per_second"]})
            if config.measure.every and self.step % config.measure.every == 0 and self.step < config.steps:
                self._measure(store, "during", config.measure.interim_tasks)
            if self.step % config.checkpoint_every == 0 or self.step == config.steps:
                self._save()

    def _one_step(self, store: TrajectoryStore, learner: Learner) -> dict[str, Any]:
        """Collect groups, train on them, store them; return the record for the log."""
        started = time.perf_counter()
        progress = Progress(self.step, self.config.steps)
        self.policy.model.eval()
        groups = self.sampler.groups(self.step)
        collected = time.perf_counter()
        metrics = learner.learn(groups, progress) | dict(self.algorithm.rollout.metrics())
        asyncio.run(self.engine.sync())
        updated = time.perf_counter()
        self.step += 1
        trajectories = [trajectory for group in groups for trajectory in group.trajectories]
        _keep(store, trajectories, self.step, "train", self.sampler.split)
        store.add_signals(self.step, learner.signals)
        summary = score(trajectories)
        uneven = sum(len({trajectory.reward for trajectory in group.valid}) > 1 for group in groups)
        finished = time.perf_counter()
        return {
            "phase": "train",
            "step": self.step,
            **summary.as_dict(),
            "groups_with_signal": uneven / len(groups),
            **metrics,
            "seconds": {
                "rollout": collected - started,
                "update": updated - collected,
                "total": finished - started,
                "tokens_per_second": summary.generated_tokens / max(collected - started, 1e-9),
            },
        }

    def _make_learner(self) -> Learner:
        learner = Learner(
            self.policy.model,
            self.algorithm,
            self._update_settings(),
            seed=self.config.seed,
            reference=self._reference() if self.algorithm.needs_reference else None,
            accelerator=self.accelerator,
            record_signals=self.config.signals,
        )
        if self._saved:
            learner.load_state_dict(self._saved)
        return learner

    def _reference(self) -> PreTrainedModel:
        """Return the policy as it was before the first step; it is kept in the run folder."""
        folder = self.run_folder.path / "reference"
        if not folder.is_dir():
            if self.step > 0:
                raise StoreError(f"{folder}, which training began with, is gone: put it back, or start the run anew.")
            with new_folder(folder) as fresh:
                self.policy.model.save_pretrained(fresh)
                self.policy.tokenizer.save_pretrained(fresh)
        return load_model(str(folder))[0]

    # -- measuring -------------------------------------------------------------------------------------------------

    def _measure(self, store: TrajectoryStore, phase: str, count: int) -> None:
        """Play tasks of the measured split and log the score."""
        section = self.config.measure
        if not count or not section.tasks:
            return
        started = time.perf_counter()
        step = max(self.step, 0)
        self.policy.model.eval()
        told = phase != "during"

        def begun(episodes: int) -> None:
            if told:
                self.listener.stage(phase, episodes)

        def heard(trajectory: Trajectory) -> None:
            if told:
                self.listener.advance({"success": float(trajectory.success)})

        trajectories = self.sampler.measure(phase, step, count, begun=begun, heard=heard)
        _keep(store, trajectories, step, phase, section.split)
        record = {"phase": phase, "step": step, "split": section.split, **score(trajectories).as_dict()}
        self.run_folder.log(record | {"seconds": {"total": time.perf_counter() - started}})

    # -- parts -----------------------------------------------------------------------------------------------------

    def _finished(self) -> bool:
        """Whether everything is done, the last measurement included."""
        if self.step < self.config.steps:
            return False
        return not self.config.measure.tasks or any(r["phase"] == "after" for r in self.run_folder.metrics())

    def _update_settings(self) -> UpdateSettings:
        section = self.config.update
        return UpdateSettings(**section.model_dump(), temperature=self.config.rollout.temperature)

    def _save(self) -> None:
        checkpoints.save(
            self.run_folder,
            self.step,
            model=self.policy.model,
            tokenizer=self.policy.tokenizer,
            training=self.learner.state_dict() if self.learner is not None else {},
            keep=self.config.keep_checkpoints,
        )

    @contextmanager
    def _progress(self) -> Iterator[None]:
        """Say where the run is kept when it breaks off."""
        try:
            yield
        except KeyboardInterrupt:
            raise StoreError(
                f"Interrupted after {max(self.step, 0)} steps; go on with --resume (run folder {self.run_folder.path})."
            ) from None


def _keep(store: TrajectoryStore, trajectories: list[Trajectory], step: int, phase: str, split: str | None) -> None:
    for trajectory in trajectories:
        trajectory.metadata["split"] = split or ""
    store.add(trajectories, step=step, phase=phase)


def _score_of(records: list[dict[str, Any]], phase: str) -> Score | None:
    names = Score.__dataclass_fields__
    for record in reversed(records):
        if record.get("phase") == phase:
            return Score(**{name: record[name] for name in names if name in record})
    return None
