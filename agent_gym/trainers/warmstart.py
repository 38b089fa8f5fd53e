"""Behaviour cloning on demonstrations: where a policy begins that could not solve a single task by chance.

Knows the environments' demonstrators and the chat; the loss is the mean negative log-probability of their tokens.
"""

import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from agent_gym.config import TrainConfig
from agent_gym.env import Info, TextEnv
from agent_gym.errors import TrainingError
from agent_gym.registry import make
from agent_gym.rollout.actions import Syntax, syntax
from agent_gym.rollout.chat import Chat
from agent_gym.rollout.episode import EpisodeSettings, episode_settings
from agent_gym.rollout.player import Move, Moves, follow_demonstrator, play
from agent_gym.rollout.seeds import derive_seed
from agent_gym.sections import WarmStartSection
from agent_gym.trainers.batch import Batch, make_batch
from agent_gym.trainers.dropping import drawing_from
from agent_gym.trainers.listening import Listener
from agent_gym.trainers.optimizers import Name, make_optimizer
from agent_gym.trainers.processes import Processes, alone
from agent_gym.trainers.scorer import TokenScorer
from agent_gym.trainers.trained import Trained
from agent_gym.trajectory import Trajectory

_HEARD = 1000
"""Actions remembered as a source of mistakes."""


@dataclass(frozen=True, slots=True)
class CloneSettings:
    """How demonstrations are cloned."""

    epochs: int = 1
    batch_size: int = 4
    optimizer: Name = "muon"
    learning_rate: float = 4e-3
    warmup_steps: int = 30
    max_grad_norm: float = 1.0
    observation_weight: float = 0.0
    """Weight of the loss on tokens that the agent reads rather than writes, against 1 on those that it writes. A model
    that begins from random weights learns the language of an environment, and copying from it, much faster above 0."""


@dataclass(frozen=True, slots=True)
class DemonstrationSettings:
    """Which demonstrations are made."""

    count: int = 1000
    """Episodes to play."""
    mistakes: float = 0.0
    """Share of turns that are spent on an action that does not work. It is not cloned; from the turn after it, the
    clone learns to go on when it has erred itself."""
    distractions: tuple[str, ...] = ()
    """Actions that a demonstrator in no hurry puts in, such as looking around; they are cloned."""
    distracted: float = 0.0
    """Share of turns that go to distractions."""
    keep_failures: bool = False
    """Also clone episodes that the demonstrator did not solve."""


def demonstrations(
    env: TextEnv,
    chat: Chat,
    syntax: Syntax,
    episode: EpisodeSettings,
    settings: DemonstrationSettings,
    *,
    seed: int,
) -> Iterator[Trajectory]:
    """Play tasks of the environment's split with its demonstrator.

    Args:
        env: The environment, whose `demonstrate` acts.
        chat: How observations and answers become tokens; the model's own.
        syntax: How actions are written.
        episode: How observations are shown; sampling is not used.
        settings: How many, and with which mistakes.
        seed: Chooses the tasks, the mistakes and the demonstrator's own chance.

    Raises:
        ConfigError: The environment has no demonstrator.
    """
    policy = Demonstrator(settings)
    for number in range(settings.count):
        trajectory = play(env, policy, chat, syntax, episode, seed=derive_seed(seed, "demonstration", number))
        if trajectory.success or (settings.keep_failures and trajectory.error is None):
            yield trajectory


def demonstration_settings(section: WarmStartSection) -> DemonstrationSettings:
    """Return the settings that a configuration asks for."""
    return DemonstrationSettings(section.episodes, section.mistakes, tuple(section.distractions), section.distracted)


def play_demonstrations(
    config: TrainConfig, chat: Chat, settings: DemonstrationSettings, *, seed: int
) -> Iterator[Trajectory]:
    """Play the demonstrations of a run in an environment of their own."""
    env = demonstration_env(config)
    try:
        yield from demonstrations(
            env, chat, syntax(config.rollout.syntax), episode_settings(config.rollout, 1.0), settings, seed=seed
        )
    finally:
        env.close()


def demonstration_env(config: TrainConfig) -> TextEnv:
    """Return an environment as the demonstrator of a run plays it."""
    return make(config.env.id, **{**config.env.options, **config.warm_start.env_options})


class Demonstrator:
    """A policy: the environment's demonstrator, who makes detours now and then."""

    def __init__(self, settings: DemonstrationSettings) -> None:
        self.settings = settings
        self.heard: list[str] = []
        """Actions of all episodes so far, bounded; mistakes are taken from here."""

    def __call__(self, env: TextEnv, observation: str, info: Info, rng: random.Random) -> Moves:
        """Begin an episode."""
        planned = follow_demonstrator(env, observation, info, rng)
        recent: deque[str] = deque(maxlen=3)
        move = next(planned, None)
        while move is not None:
            detour = self._detour(env, recent, rng)
            recent.append((detour or move).action)
            answer = yield detour or move
            if detour is not None:
                continue
            self._remember(move.action, rng)
            try:
                move = planned.send(answer)
            except StopIteration:
                return

    def _detour(self, env: TextEnv, recent: Sequence[str], rng: random.Random) -> Move | None:
        """Return what is done before the demonstrator goes on, if anything."""
        if self.settings.distractions and rng.random() < self.settings.distracted:
            return Move(rng.choice(self.settings.distractions))
        return self._mistake(env, recent, rng) if rng.random() < self.settings.mistakes else None

    def _mistake(self, env: TextEnv, recent: Sequence[str], rng: random.Random) -> Move | None:
        """Return an action that does not work here, if the first one that comes to mind does not.

        Half of them repeat what was done before in this episode, as a clone tends to do; the others come from other
        episodes.
        """
        pool = recent if recent and rng.random() < 0.5 else self.heard
        if not pool:
            return None
        action = rng.choice(pool)
        *_, info = env.fork().step(action)
        return Move(action, exemplary=False) if info["invalid_action"] else None

    def _remember(self, action: str, rng: random.Random) -> None:
        if len(self.heard) < _HEARD:
            self.heard.append(action)
        else:
            self.heard[rng.randrange(_HEARD)] = action


def warm_start(
    config: TrainConfig, model: PreTrainedModel, chat: Chat, processes: Processes, listener: Listener
) -> dict[str, float]:
    """Let the demonstrator of a run play, and the policy learn from it.

    Args:
        config: Of the run.
        model: The policy; trained in place.
        chat: How observations and answers become tokens.
        processes: Those that train together; each plays all demonstrations, and learns from its share.
        listener: Hears of progress.

    Returns:
        "episodes" that are cloned, and the "loss", see `clone`.
    """
    section = config.warm_start
    listener.stage("demonstrations", section.episodes)
    settings = demonstration_settings(section)
    played = []
    for trajectory in play_demonstrations(config, chat, settings, seed=derive_seed(config.seed, "warm start")):
        played.append(trajectory)
        listener.advance({})
    steps = section.epochs * -(-len(played) // section.batch_size)
    listener.stage("warm start", steps)
    loss = clone(
        model,
        played,
        CloneSettings(
            epochs=section.epochs,
            batch_size=section.batch_size,
            optimizer=section.optimizer,
            learning_rate=section.learning_rate,
            observation_weight=section.observation_weight,
        ),
        seed=config.seed,
        processes=processes,
        on_step=lambda step, total, loss: listener.advance({"loss": loss}),
    )
    return {"episodes": len(played), "loss": loss}


def clone(
    model: PreTrainedModel,
    trajectories: Sequence[Trajectory],
    settings: CloneSettings,
    *,
    seed: int,
    processes: Processes | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> float:
    """Train the model to act like the trajectories, in place.

    Args:
        model: The policy.
        trajectories: Demonstrations.
        settings: How to train.
        seed: Shuffles the demonstrations; dropout follows from it.
        processes: Those that train together, each with the same demonstrations; this one alone if not given.
        on_step: Called with (step, steps in all, loss) after each optimiser step.

    Returns:
        The mean loss in nats a token over the last tenth of the steps.
    """
    if not trajectories:
        raise TrainingError("There are no demonstrations to clone: the demonstrator solved none of its tasks.")
    processes = processes or alone()

    def optimizer(module: torch.nn.Module) -> torch.optim.Optimizer:
        return make_optimizer(
            settings.optimizer, model, learning_rate=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
        )

    trained = Trained(TokenScorer(model), optimizer, processes)
    trained.module.train()
    rng = random.Random(seed)
    steps = settings.epochs * -(-len(trajectories) // settings.batch_size)
    losses: list[float] = []
    chance = derive_seed(seed, "dropout", processes.rank)
    with drawing_from(chance, processes.accelerator.device):
        for _ in range(settings.epochs):
            for part in _similar_batches(trajectories, settings.batch_size, rng):
                for group in trained.optimizer.param_groups:
                    group["lr"] = settings.learning_rate * _schedule(len(losses), steps, settings.warmup_steps)
                trained.optimizer.zero_grad()
                losses.append(_clone_step(trained, part, settings))
                trained.clip(settings.max_grad_norm)
                trained.optimizer.step()
                if on_step is not None:
                    on_step(len(losses), steps, losses[-1])
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def _clone_step(trained: Trained, part: Sequence[Trajectory], settings: CloneSettings) -> float:
    """Make the gradient of the demonstrations of one step, each process that of its share; return their loss.

    Raises:
        TrainingError: It is not finite, on whichever process.
    """
    processes = trained.processes
    device = processes.accelerator.device
    batch = make_batch(part, [0.0] * len(part), [0] * len(part)).to(device)
    read = _read_mask(part, batch) if settings.observation_weight else None
    # Who has no row goes through the model all the same, without weight: the others wait for its gradient.
    own = torch.tensor(processes.mine(len(part)) or [0], device=device)
    weight = float(processes.rank < len(part))
    loss = _clone_loss(trained.module, batch, read, settings.observation_weight, own) * weight
    trained.backward(loss, last=True)
    whole = math.fsum(processes.all(float(loss.detach())))
    if not math.isfinite(whole):
        raise TrainingError("The loss of the warm start is not finite: lower warm_start.learning_rate.")
    return whole


def _clone_loss(
    scorer: torch.nn.Module, batch: Batch, read: Tensor | None, observation_weight: float, own: Tensor
) -> Tensor:
    """Return the mean negative log-probability of what the agent wrote, plus the weighted one of what it read.

    Of these means over all rows only the summands of some rows, `own`, are computed.
    """
    ids, mask = batch.input_ids[own], batch.mask[own]
    logprobs, _ = scorer(ids, mask if read is None else mask + read[own])
    loss: Tensor = -(logprobs * mask).sum() / batch.mask.sum().clamp(min=1)
    if read is not None:
        loss = loss - observation_weight * (logprobs * read[own]).sum() / read.sum()
    return loss


def _read_mask(trajectories: Sequence[Trajectory], batch: Batch) -> Tensor:
    """Return 1 on the tokens (B, T) that the agent read: not its own, not those of mistakes, and not padding."""
    read = torch.zeros_like(batch.mask)
    for row, trajectory in enumerate(trajectories):
        read[row, 1 : len(trajectory.token_ids)] = 1
        for turn in trajectory.turns:
            read[row, turn.start : turn.end] = 0
    return read


def _similar_batches(trajectories: Sequence[Trajectory], size: int, rng: random.Random) -> list[list[Trajectory]]:
    """Shuffle, then group trajectories of similar length so that little is padding, then shuffle the batches."""
    shuffled = list(trajectories)
    rng.shuffle(shuffled)
    window = size * 16
    batches = []
    for start in range(0, len(shuffled), window):
        part = sorted(shuffled[start : start + window], key=lambda trajectory: len(trajectory.token_ids))
        batches += [part[i : i + size] for i in range(0, len(part), size)]
    rng.shuffle(batches)
    return batches


def _schedule(step: int, steps: int, warmup: int) -> float:
    """Rise linearly, then fall linearly to a tenth."""
    return min(1.0, (step + 1) / max(warmup, 1)) * (0.1 + 0.9 * (1 - step / steps))
