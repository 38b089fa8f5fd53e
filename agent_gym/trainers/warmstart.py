"""Behaviour cloning on demonstrations: where a policy begins that could not solve a single task by chance.

Knows the environments' demonstrators and the chat; the loss is the mean negative log-probability of their tokens.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from agent_gym.env import TextEnv
from agent_gym.errors import TrainingError
from agent_gym.rollout.actions import Syntax
from agent_gym.rollout.chat import Chat
from agent_gym.rollout.episode import EpisodeSettings, shown
from agent_gym.rollout.seeds import derive_seed
from agent_gym.trainers.batch import Batch, make_batch
from agent_gym.trainers.optimizers import Name, make_optimizer
from agent_gym.trainers.scorer import TokenScorer
from agent_gym.trajectory import Trajectory, Turn

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
        TrainingError: The environment has no demonstrator.
    """
    heard: list[str] = []
    for number in range(settings.count):
        player = _Player(env, chat, syntax, episode, settings, heard)
        trajectory = player.play(derive_seed(seed, "demonstration", number))
        if trajectory.success or settings.keep_failures:
            yield trajectory


@dataclass(eq=False)
class _Player:
    """Plays one demonstration and writes its tokens down."""

    env: TextEnv
    chat: Chat
    syntax: Syntax
    episode: EpisodeSettings
    settings: DemonstrationSettings
    heard: list[str]
    """Actions of all episodes so far, bounded; mistakes are taken from here."""

    def play(self, seed: int) -> Trajectory:
        rng = random.Random(seed)
        observation, info = self.env.reset(seed=seed)
        policy = self.env.demonstrate(observation, rng)
        if policy is None:
            raise TrainingError(
                f"{type(self.env).__name__} has no demonstrator to clone: write its demonstrate() or expert(), or set "
                "warm_start.episodes to 0."
            )
        trajectory = Trajectory(task_id=info["task_id"], seed=seed, goal=info["goal"])
        trajectory.append_context(self.chat.begin(shown(self.episode, observation, info, first=True)))
        action = next(policy, None)
        while action is not None:
            detour, cloned = self._detour(trajectory, rng)
            observation = self._turn(trajectory, observation, detour or action, cloned=cloned)
            if trajectory.terminated or trajectory.truncated:
                break
            if detour is None:
                self._remember(action, rng)
                try:
                    action = policy.send(observation)
                except StopIteration:
                    break
        policy.close()
        return trajectory

    def _turn(self, trajectory: Trajectory, observation: str, action: str, *, cloned: bool) -> str:
        """Apply an action; its tokens count as the agent's own only if they are to be cloned."""
        text = self.syntax.write(action)
        answer = self.chat.answer(text)
        start, zeros = len(trajectory.token_ids), [0.0] * len(answer)
        if cloned:
            trajectory.append_action(answer, zeros, zeros)
        else:
            trajectory.append_context(answer)
        turn = Turn(observation, text, action, start, len(trajectory.token_ids))
        trajectory.turns.append(turn)
        observation, turn.reward, trajectory.terminated, trajectory.truncated, info = self.env.step(action)
        turn.invalid_action = bool(info["invalid_action"])
        trajectory.success, trajectory.score = bool(info["success"]), float(info["score"])
        if not (trajectory.terminated or trajectory.truncated):
            text = shown(self.episode, observation, info, first=False)
            trajectory.append_context(self.chat.extend(text, ended=True))
        return observation

    def _detour(self, trajectory: Trajectory, rng: random.Random) -> tuple[str | None, bool]:
        """Return what is done before the demonstrator goes on, if anything, and whether this turn is cloned."""
        if self.settings.distractions and rng.random() < self.settings.distracted:
            return rng.choice(self.settings.distractions), True
        mistake = self._mistake(trajectory, rng)
        return mistake, mistake is None

    def _mistake(self, trajectory: Trajectory, rng: random.Random) -> str | None:
        """Return, sometimes, an action that does not work here.

        Half of them repeat what was done before in this episode, as a clone tends to do; the others come from other
        episodes.
        """
        if rng.random() >= self.settings.mistakes:
            return None
        own = [turn.action for turn in trajectory.turns[-3:]]
        pool = own if own and rng.random() < 0.5 else self.heard
        if not pool:
            return None
        action = rng.choice(pool)
        twin = self.env.fork()
        *_, info = twin.step(action)
        return action if info["invalid_action"] else None

    def _remember(self, action: str, rng: random.Random) -> None:
        if len(self.heard) < _HEARD:
            self.heard.append(action)
        else:
            self.heard[rng.randrange(_HEARD)] = action


def clone(
    model: PreTrainedModel,
    trajectories: Sequence[Trajectory],
    settings: CloneSettings,
    *,
    seed: int,
    accelerator: Accelerator | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> float:
    """Train the model to act like the trajectories, in place.

    Args:
        model: The policy.
        trajectories: Demonstrations.
        settings: How to train.
        seed: Shuffles the demonstrations.
        accelerator: From accelerate; made for this process if not given.
        on_step: Called with (step, steps in all, loss) after each optimiser step.

    Returns:
        The mean loss in nats a token over the last tenth of the steps.
    """
    if not trajectories:
        raise TrainingError("There are no demonstrations to clone: the demonstrator solved none of its tasks.")
    accelerator = accelerator or Accelerator()
    optimizer = make_optimizer(
        settings.optimizer, model, learning_rate=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    scorer, optimizer = accelerator.prepare(TokenScorer(model), optimizer)
    scorer.train()
    rng = random.Random(seed)
    steps = settings.epochs * -(-len(trajectories) // settings.batch_size)
    losses: list[float] = []
    for _ in range(settings.epochs):
        for part in _similar_batches(trajectories, settings.batch_size, rng):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * _schedule(len(losses), steps, settings.warmup_steps)
            batch = make_batch(part, [0.0] * len(part), [0] * len(part)).to(accelerator.device)
            read = _read_mask(part, batch) if settings.observation_weight else None
            loss = _clone_loss(scorer, batch, read, settings.observation_weight)
            optimizer.zero_grad()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(scorer.parameters(), settings.max_grad_norm)
            optimizer.step()
            losses.append(float(loss.detach()))
            if on_step is not None:
                on_step(len(losses), steps, losses[-1])
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def _clone_loss(scorer: torch.nn.Module, batch: Batch, read: Tensor | None, observation_weight: float) -> Tensor:
    """Return the mean negative log-probability of what the agent wrote, plus the weighted one of what it read."""
    logprobs, _ = scorer(batch.input_ids, batch.mask if read is None else batch.mask + read)
    loss: Tensor = -(logprobs * batch.mask).sum() / batch.mask.sum().clamp(min=1)
    if read is not None:
        loss = loss - observation_weight * (logprobs * read).sum() / read.sum()
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
