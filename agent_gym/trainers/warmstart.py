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
from agent_gym.trainers.scorer import TokenScorer
from agent_gym.trajectory import Trajectory, Turn


@dataclass(frozen=True, slots=True)
class CloneSettings:
    """How demonstrations are cloned."""

    epochs: int = 1
    batch_size: int = 8
    learning_rate: float = 1.5e-3
    warmup_steps: int = 30
    max_grad_norm: float = 1.0
    observation_weight: float = 0.0
    """Weight of the loss on tokens that the agent reads rather than writes, against 1 on those that it writes. A model
    that begins from random weights learns the language of an environment, and copying from it, much faster above 0."""


def demonstrations(
    env: TextEnv,
    chat: Chat,
    syntax: Syntax,
    settings: EpisodeSettings,
    *,
    count: int,
    seed: int,
    keep_failures: bool = False,
) -> Iterator[Trajectory]:
    """Play `count` tasks of the environment's split with its demonstrator.

    Args:
        env: The environment, whose `demonstrate` acts.
        chat: How observations and answers become tokens; the model's own.
        syntax: How actions are written.
        settings: How observations are shown; sampling is not used.
        count: Episodes to play.
        seed: Chooses the tasks and the demonstrator's own chance.
        keep_failures: Also return episodes that the demonstrator did not solve.

    Raises:
        TrainingError: The environment has no demonstrator.
    """
    for number in range(count):
        trajectory = _demonstrate(env, chat, syntax, settings, derive_seed(seed, "demonstration", number))
        if trajectory.success or keep_failures:
            yield trajectory


def _demonstrate(env: TextEnv, chat: Chat, syntax: Syntax, settings: EpisodeSettings, seed: int) -> Trajectory:
    observation, info = env.reset(seed=seed)
    policy = env.demonstrate(observation, random.Random(seed))
    if policy is None:
        raise TrainingError(
            f"{type(env).__name__} has no demonstrator to clone: write its demonstrate() or expert(), or set "
            "warm_start.episodes to 0."
        )
    trajectory = Trajectory(task_id=info["task_id"], seed=seed, goal=info["goal"])
    trajectory.append_context(chat.begin(shown(settings, observation, info, first=True)))
    action = next(policy, None)
    while action is not None:
        answer = chat.answer(syntax.write(action))
        start, zeros = len(trajectory.token_ids), [0.0] * len(answer)
        trajectory.append_action(answer, zeros, zeros)
        turn = Turn(observation, syntax.write(action), action, start, len(trajectory.token_ids))
        trajectory.turns.append(turn)
        observation, turn.reward, terminated, truncated, info = env.step(action)
        trajectory.success, trajectory.score = info["success"], info["score"]
        trajectory.terminated, trajectory.truncated = terminated, truncated
        if terminated or truncated:
            break
        trajectory.append_context(chat.extend(shown(settings, observation, info, first=False), ended=True))
        try:
            action = policy.send(observation)
        except StopIteration:
            break
    return trajectory


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
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
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
            loss = _clone_loss(scorer, batch, settings.observation_weight)
            optimizer.zero_grad()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(scorer.parameters(), settings.max_grad_norm)
            optimizer.step()
            losses.append(float(loss.detach()))
            if on_step is not None:
                on_step(len(losses), steps, losses[-1])
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def _clone_loss(scorer: torch.nn.Module, batch: Batch, observation_weight: float) -> Tensor:
    """Return the mean negative log-probability of what the agent wrote, plus the weighted one of what it read."""
    real = torch.arange(batch.mask.shape[1], device=batch.mask.device) < batch.lengths.unsqueeze(1)
    scored = real.float() if observation_weight else batch.mask
    scored = torch.cat([torch.zeros_like(scored[:, :1]), scored[:, 1:]], 1)
    logprobs, _ = scorer(batch.input_ids, scored)
    read = scored * (1 - batch.mask)
    loss = -(logprobs * batch.mask).sum() / batch.mask.sum()
    if observation_weight:
        loss = loss - observation_weight * (logprobs * read).sum() / read.sum()
    return loss


def _similar_batches(
    trajectories: Sequence[Trajectory], size: int, rng: random.Random
) -> list[list[Trajectory]]:
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
