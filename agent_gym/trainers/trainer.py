"""The training run: warm start, then step after step of collecting, comparing and updating; kept on disk throughout.

Everything random follows from the run's seed and the step's number, so that a run which was killed goes on with the
numbers that it would have had. Many processes make the same run as one: each plays its share of the episodes and
computes its share of each update, and everything between is done by all of them.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from agent_gym.config import TrainConfig
from agent_gym.config_files import as_dict
from agent_gym.engines.adapters import StartingAdapter, has_adapters
from agent_gym.engines.choice import make_engine, shares_model
from agent_gym.engines.loading import load_model
from agent_gym.errors import ConfigError, StoreError, TrainingError
from agent_gym.rollout.score import Score, score
from agent_gym.store import checkpoints
from agent_gym.store.atomic import new_folder
from agent_gym.store.holding import held
from agent_gym.store.run import RunFolder
from agent_gym.trainers import syncing
from agent_gym.trainers.ahead import AheadSampler
from agent_gym.trainers.algorithm import Progress
from agent_gym.trainers.keeping import Keeper
from agent_gym.trainers.learner import Learner
from agent_gym.trainers.listening import Listener, Silence
from agent_gym.trainers.policy import Policy, keep_base, load_policy
from agent_gym.trainers.preparing import check_equal, checked, existing_run
from agent_gym.trainers.presets import make_algorithm
from agent_gym.trainers.processes import Processes, join
from agent_gym.trainers.sampling import Sampler
from agent_gym.trainers.scorer import TokenScorer
from agent_gym.trainers.stopping import Stopping
from agent_gym.trainers.update import UpdateSettings
from agent_gym.trainers.warmstart import warm_start
from agent_gym.trajectory import Trajectory


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
    processes: Processes | None = None,
) -> RunResult:
    """Train a policy and keep everything in a run folder.

    Args:
        config: What to do.
        folder: Where to keep it; of many processes all have to see it under this name.
        resume: Go on with the run in the folder, if there is one, from its last checkpoint.
        listener: Hears of progress.
        processes: Those that train together; by default the ones that a launcher has started.

    Returns:
        The folder, the success before and after, and all metrics.

    Raises:
        AgentGymError: Something named in the message cannot be done.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    path = Path(folder)
    processes = processes or join_for(config)
    with processes.watched(path), ExitStack() as holding:
        config = checked(config, processes)
        found = processes.told(lambda: existing_run(config, path) is not None) if resume else False
        # The model comes before the folder: what cannot be loaded leaves nothing behind.
        with processes.together():
            policy = load_policy(config, RunFolder.open(path) if found else None)
        check_equal(policy, processes)

        def make_folder() -> None:
            run = RunFolder.open(path) if found else RunFolder.create(path, as_dict(config))
            holding.enter_context(held(run.path))
            keep_base(policy, run)

        processes.told(make_folder)
        run = RunFolder.open(path)
        try:
            return Trainer(config, run, policy, listener or Silence(), processes).run()
        except (ConfigError, TrainingError):
            if processes.is_main and not run.checkpoints():
                # It could not even begin: nothing is worth resuming, and the name is free for the next try.
                shutil.rmtree(run.path, ignore_errors=True)
            raise


def join_for(config: TrainConfig) -> Processes:
    """Join the processes of a launcher, as a configuration says; without one this process is alone."""
    precision = config.model.mixed_precision
    return join(timeout=config.distributed.timeout, mixed_precision=None if precision == "auto" else precision)


class Trainer:
    """One run. Use `train` unless you want to look inside.

    Args:
        config: What to do.
        run: Where it is kept; where it holds a checkpoint, training goes on from there.
        policy: The policy of that checkpoint, see `load_policy`.
        listener: Hears of progress, on process 0.
        processes: Those that train together.
    """

    def __init__(
        self, config: TrainConfig, run: RunFolder, policy: Policy, listener: Listener, processes: Processes
    ) -> None:
        self.config = config
        self.run_folder = run
        self.policy = policy
        self.processes = processes
        self.listener = listener if processes.is_main else Silence()
        self.algorithm = make_algorithm(config.algorithm.name, config.algorithm.options)
        self.shard = processes.shards(asked=config.distributed.shard)
        # What is sharded goes to its device layer by layer.
        if not self.shard:
            self.policy.model.to(processes.accelerator.device)
        self.shares_model = shares_model(config.engine) and not self.shard and not config.rollout.max_lag
        with processes.together():
            self.engine = make_engine(
                config.engine,
                model=policy.model,
                tokenizer=policy.tokenizer,
                max_batch=config.rollout.concurrency,
                shared=self.shares_model,
                pushes=processes.is_main,
                device=processes.accelerator.device,
            )
        self.sampler = self._make_sampler()
        self.keeper = Keeper(run, list(config.tracking), writes=processes.is_main)
        self.learner: Learner | None = None
        self._stopping = Stopping(alone=processes.count == 1)
        self.step = -1
        """Steps done; -1 before the warm start."""
        self._saved: dict[str, Any] = {}
        done = run.checkpoints()
        if done:
            self.step = done[-1]
            self.engine.version = self.step
            self._saved = checkpoints.load_state(run.checkpoint_path(self.step))

    def run(self) -> RunResult:
        """Do what is left to do, and sum up."""
        run = self.run_folder
        finished = self.processes.told(self._finished)
        with self.sampler, self._progress(), ExitStack() as stack:
            with self.processes.together():
                if self.processes.is_main and not finished:
                    run.rewind(self.step)
                stack.enter_context(self.keeper)
            if not finished:
                self._stages()
        records = self.processes.told(run.metrics)
        return RunResult(run.path, _score_of(records, "before"), _score_of(records, "after"), records)

    # -- stages ----------------------------------------------------------------------------------------------------

    def _stages(self) -> None:
        if self.step < 0:
            self._warm_start()
        if not self.shares_model:
            self._sync()
        if self.step < 0:
            self._measure("before", self.config.measure.tasks)
            self.step = 0
            self._save()
        with self._stopping.training():
            self._train()
        self._measure("after", self.config.measure.tasks)

    def _warm_start(self) -> None:
        section = self.config.warm_start
        if not section.episodes:
            return
        started = time.perf_counter()
        made = warm_start(self.config, self.policy.model, self.policy.chat, self.processes, self.listener)
        record = {"phase": "warm_start", "step": 0, **made}
        with self.processes.together():
            self.keeper.log(record | {"seconds": {"total": time.perf_counter() - started}})

    def _train(self) -> None:
        config = self.config
        if self.step >= config.steps:
            return
        self.learner = learner = self._make_learner()
        self.listener.stage("training", config.steps - self.step)
        self._measure_if_due()
        while self.step < config.steps:
            record = self._one_step(learner)
            numbers = {key: value for key, value in record.items() if isinstance(value, float)}
            self.listener.advance(numbers | {"tokens_per_second": record["seconds"]["tokens_per_second"]})
            self._measure_if_due()
            if self.step % config.checkpoint_every == 0 or self.step == config.steps:
                self._save()
            self._stopping.heed(self.processes.all(self._stopping.asked))

    def _one_step(self, learner: Learner) -> dict[str, Any]:
        """Collect groups, train on them, store them; return the record that is logged."""
        started = time.perf_counter()
        progress = Progress(self.step, self.config.steps)
        self.policy.model.eval()
        with self._stopping.playing():
            groups = self.sampler.groups(self.step)
        collected = time.perf_counter()
        if self.config.engine.sleep and not self.config.rollout.max_lag:
            self.sampler.call(self.engine.sleep())
        with self.processes.together(TrainingError):
            metrics = learner.learn(groups, progress) | dict(self.sampler.metrics())
        self.step += 1
        self._sync()
        updated = time.perf_counter()
        trajectories = [trajectory for group in groups for trajectory in group.trajectories]
        summary = score(trajectories)
        uneven = sum(len({trajectory.reward for trajectory in group.valid}) > 1 for group in groups)
        with self.processes.together():
            self.keeper.keep(trajectories, self.step, "train", self.sampler.split, learner.signals)
            finished = time.perf_counter()
            record = {
                "phase": "train",
                "step": self.step,
                **summary.as_dict(),
                "groups_with_signal": uneven / len(groups),
                **metrics,
                "seconds": {
                    "update": updated - collected,
                    "total": finished - started,
                    "tokens_per_second": summary.generated_tokens / max(self.sampler.seconds()["rollout"], 1e-9),
                    "throughput": summary.generated_tokens / max(finished - started, 1e-9),
                    **self.sampler.seconds(),
                },
            }
            self.keeper.log(record)
        return record

    def _measure(self, phase: str, count: int) -> None:
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

        with self._stopping.playing():
            trajectories = self.sampler.measure(phase, step, count, begun=begun, heard=heard)
        record = {"phase": phase, "step": step, "split": section.split, **score(trajectories).as_dict()}
        with self.processes.together():
            self.keeper.keep(trajectories, step, phase, section.split)
            self.keeper.log(record | {"seconds": {"total": time.perf_counter() - started}})

    # -- the engine ------------------------------------------------------------------------------------------------

    def _make_sampler(self) -> Sampler:
        """Return what plays episodes: in turns with training, or ahead of it."""
        config, processes = self.config, self.processes
        arguments = (config, self.engine, self.policy.chat, self.algorithm.rollout)
        share = processes if processes.count > 1 else None
        if not config.rollout.max_lag:
            return Sampler(*arguments, share=share)
        ahead = processes.another() if processes.count > 1 else None
        return AheadSampler(*arguments, share=share, share_ahead=ahead, device=processes.accelerator.device)

    def _sync(self) -> None:
        """Let the engine sample with the weights as they are now."""
        if self.shares_model:
            self.sampler.updated(None, self.step)
            return
        scorer = self.learner.updater.scorer if self.learner else TokenScorer(self.policy.model)
        ids = syncing.probe_ids(len(self.policy.tokenizer))
        syncing.hand_over(self.sampler, self.policy.model, scorer, self.processes, step=max(self.step, 0), ids=ids)
        if self.learner:
            self.learner.updater.trained.settle()

    # -- parts -----------------------------------------------------------------------------------------------------

    def _make_learner(self) -> Learner:
        learner = Learner(
            self.policy.model,
            self.algorithm,
            UpdateSettings(**self.config.update.model_dump(), temperature=self.config.rollout.temperature),
            seed=self.config.seed,
            reference=self._reference() if self.algorithm.needs_reference else None,
            processes=self.processes,
            shard=self.shard,
            record_signals=self.config.signals,
            # Under mixed precision the update computes otherwise than sampling, on the same weights.
            proximal=not self.shares_model or self.processes.accelerator.mixed_precision != "no",
        )
        if self._saved:
            learner.load_state_dict(self._saved)
        return learner

    def _reference(self) -> PreTrainedModel | StartingAdapter:
        """Return the policy as it was before the first step; it is kept in the run folder."""
        folder = self.run_folder.path / "reference"

        def write() -> None:
            if folder.is_dir():
                return
            if self.step > 0:
                raise StoreError(f"{folder}, which training began with, is gone: put it back, or start the run anew.")
            with new_folder(folder) as fresh:
                self.policy.model.save_pretrained(fresh)
                self.policy.tokenizer.save_pretrained(fresh)

        self.processes.told(write)
        if has_adapters(self.policy.model):
            return StartingAdapter(self.policy.model, folder)
        section = self.config.model
        return load_model(str(folder), dtype=section.dtype, attention=section.attention)[0]

    def _measure_if_due(self) -> None:
        """Measure success between steps, where it shall be and has not been: a run may have broken off in it."""
        section = self.config.measure
        if not section.every or self.step % section.every or not 0 < self.step < self.config.steps:
            return
        records = self.processes.told(self.run_folder.metrics)
        if not any((each["phase"], each["step"]) == ("during", self.step) for each in records):
            self._measure("during", section.interim_tasks)

    def _finished(self) -> bool:
        """Whether everything is done, the last measurement included."""
        if self.step < self.config.steps:
            return False
        return not self.config.measure.tasks or any(r["phase"] == "after" for r in self.run_folder.metrics())

    def _save(self) -> None:
        training = self.learner.state_dict() if self.learner is not None else {}
        weights = syncing.whole_model(self.policy.model, self.processes) if self.shard and self.learner else None
        with self.processes.together():
            if self.processes.is_main:
                checkpoints.save(
                    self.run_folder,
                    self.step,
                    model=self.policy.model,
                    tokenizer=self.policy.tokenizer,
                    training=training,
                    keep=self.config.keep_checkpoints,
                    weights=weights,
                )

    @contextmanager
    def _progress(self) -> Iterator[None]:
        """Keep the last step when the run is broken off, and say how it goes on."""
        with self._stopping:
            try:
                yield
            except KeyboardInterrupt:
                # Where several train, all of them come here at the end of the same step.
                if (
                    self._stopping.settled
                    and self.learner
                    and not self.processes.told(lambda: self.step in self.run_folder.checkpoints())
                ):
                    self._save()
                raise self._stopping.error(max(self.step, 0), self.run_folder.path) from None


def _score_of(records: list[dict[str, Any]], phase: str) -> Score | None:
    names = Score.__dataclass_fields__
    for record in reversed(records):
        if record.get("phase") == phase:
            return Score(**{name: record[name] for name in names if name in record})
    return None
