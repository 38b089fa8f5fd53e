"""Groups of made-up trajectories in both row layouts, and one step of training on them."""

import random
from collections.abc import Sequence

import torch
from helpers import small_llama

from agent_gym.trainers.algorithm import Algorithm, Progress
from agent_gym.trainers.batch import Batch
from agent_gym.trainers.learner import Learner
from agent_gym.trainers.reference import frozen_copy
from agent_gym.trainers.update import UpdateSettings
from agent_gym.trajectory import Group, Trajectory, Turn

START = Progress(0, 10)


def episode(observations: Sequence[str], rewards: Sequence[float], *, seed: int, window: bool = False) -> Trajectory:
    """Return a trajectory of a turn an observation.

    Args:
        observations: What was seen before each turn.
        rewards: What each turn earned.
        seed: Of tokens and their number.
        window: Each turn has a prompt of its own, and so becomes a row of its own.
    """
    rng = random.Random(seed)
    made = Trajectory(task_id="made", id=f"made{seed}")
    for observation, reward in zip(observations, rewards, strict=True):
        begin = len(made.token_ids)
        made.append_context([rng.randrange(2, 64) for _ in range(rng.randrange(2, 5))])
        start = len(made.token_ids)
        ids = [rng.randrange(2, 64) for _ in range(rng.randrange(1, 4))]
        made.append_action(ids, [-rng.random() - 3 for _ in ids], [rng.random() for _ in ids])
        turn = Turn(observation, "t", "a", start, start + len(ids), begin if window else 0, reward=reward)
        made.turns.append(turn)
    return made


def groups(*, window: bool = False) -> list[Group]:
    """Return two groups of trajectories of one to four turns, some of which saw the same."""
    plays = [
        [(["a", "b", "a"], (0, 0, 1)), (["a", "c"], (0, 0)), (["a", "b", "d", "e"], (0, 0.5, 0, 0)), (["a"], (0,))],
        [(["a", "b"], (0, 2)), (["a", "b"], (0, 0)), (["b", "a", "b"], (0, 0, 1))],
    ]
    made = []
    for number, members in enumerate(plays):
        trajectories = [
            episode(observations, rewards, seed=10 * number + place, window=window)
            for place, (observations, rewards) in enumerate(members)
        ]
        made.append(Group(f"g{number}", f"t{number}", trajectories))
    return made


def learner(algorithm: Algorithm) -> Learner:
    model = small_llama()
    reference = frozen_copy(model) if algorithm.needs_reference else None
    return Learner(model, algorithm, UpdateSettings(learning_rate=1e-3, updates_per_step=2), reference=reference)


def filled(algorithm: Algorithm, made: Sequence[Group]) -> Batch:
    """Return the rows of a step with their advantages."""
    return learner(algorithm).batch(made, START)[0]


def trained(algorithm: Algorithm, made: Sequence[Group]) -> dict[str, torch.Tensor]:
    """Return the weights of a small model after one step."""
    own = learner(algorithm)
    own.learn(made, START)
    return own.updater.scorer.model.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Return whether two sets of weights agree bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def by_turn(batch: Batch, values: torch.Tensor) -> dict[tuple[int, int], list[float]]:
    """Return the values (B, T) of each turn's tokens, by trajectory and turn."""
    found: dict[tuple[int, int], list[float]] = {}
    for row, column in (batch.turns >= 0).nonzero().tolist():
        key = (int(batch.trajectories[row]), int(batch.turns[row, column]))
        found.setdefault(key, []).append(float(values[row, column]))
    return dict(sorted(found.items()))
