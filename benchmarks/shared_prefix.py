"""Measures what `update.share_prefixes` saves: tokens, seconds and memory of a gradient, packed against unpacked.

    OMP_NUM_THREADS=1 python benchmarks/shared_prefix.py

Household episodes that share a part of their turns, as branches do, are scored by the tiny model, with gradients of
log-probabilities and entropies. Both ways take turns on the same rows; printed are medians of processor seconds, which
mind other processes less than a clock does, and the median of the ratios. "Kept" is what autograd holds for the
backward pass. Target: packed is faster wherever at least half of the tokens are shared.
"""

import argparse
import random
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from agent_gym.config import TrainConfig
from agent_gym.envs.alfworld import AlfworldEnv
from agent_gym.rollout.chat import Chat, TemplateChat
from agent_gym.trainers.policy import make_policy
from agent_gym.trainers.scorer import TokenScorer
from agent_gym.trainers.shared_prefix import unique_tokens
from agent_gym.trajectory import Trajectory

ACTIONS = ("go to", "take", "open", "close", "put", "move", "use", "heat", "cool", "clean")
"""What a trained agent does; "help" and the like are texts that the tiny tokenizer has never seen."""

Rows = tuple[Tensor, Tensor, Tensor]
"""Ids (B, T), mask (B, T), lengths (B,)."""


def main() -> None:
    """Print a line for each way of sharing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    model, tokenizer = make_policy(TrainConfig())
    chat = TemplateChat(tokenizer)
    scorers = [TokenScorer(model, share_prefixes=shared) for shared in (False, True)]
    print(
        "                              shared       tokens        seconds                      MB kept        largest"
    )
    print("rows                          tokens    all  packed  unpacked  packed  ratio  unpacked  packed  difference")
    for label, rows in cases(chat, arguments.rows, arguments.turns):
        real, left = int(rows[2].sum()), unique_tokens(rows[0], rows[2])
        seconds = [[gradient(scorer, rows)[1] for scorer in scorers] for _ in range(arguments.repeats + 1)][1:]
        unpacked, packed = (statistics.median(column) for column in zip(*seconds, strict=True))
        ratio = statistics.median(one / other for one, other in seconds)
        memory = [saved(scorer, rows) / 1e6 for scorer in scorers]
        print(
            f"{label:<30s} {1 - left / real:6.0%} {real:6d} {left:7d} {unpacked:9.3f} {packed:7.3f} {ratio:5.2f}x "
            f"{memory[0]:9.0f} {memory[1]:7.0f} {difference(scorers, rows):11.1e}",
            flush=True,
        )


def cases(chat: Chat, rows: int, turns: int) -> Iterator[tuple[str, Rows]]:
    """Yield labels and rows, from those that share nothing to those that share nearly everything."""
    yield "tasks of their own", padded([branch(chat, turns, seed=seed) for seed in range(rows)])
    for share in (0.0, 0.25, 0.5, 0.75, 0.9):
        trunk = round(share * turns)
        label = f"one task, {trunk} of {turns} turns" if trunk else "one task, its prompt"
        yield label, padded([branch(chat, turns, cuts={trunk: row}) for row in range(rows)])
    halves = [branch(chat, turns, cuts={0: row % 2, turns // 2: row}) for row in range(rows)]
    yield "two roots, branches at half", padded(halves)
    rng = random.Random(0)
    tree = [
        branch(chat, turns, cuts=dict.fromkeys(rng.sample(range(turns // 4, turns), 1), row)) for row in range(rows)
    ]
    yield "branches at chance turns", padded(tree)


def branch(chat: Chat, turns: int, *, seed: int = 0, cuts: dict[int, int] | None = None) -> Trajectory:
    """Play admissible commands at chance; from each turn in `cuts` on, other ones than before."""
    env = AlfworldEnv(max_turns=10**6)
    observation, info = env.reset(seed=seed)
    rng = random.Random(seed)
    trajectory = Trajectory(task_id="walk")
    trajectory.append_context(chat.begin(observation))
    for turn in range(turns):
        if turn in (cuts or {}):
            rng = random.Random(1000 * turn + (cuts or {})[turn])
        action = rng.choice([action for action in info["admissible_actions"] if action.startswith(ACTIONS)])
        ids = chat.answer(action)
        trajectory.append_action(ids, [0.0] * len(ids), [0.0] * len(ids))
        observation, _, ended, _, info = env.step(action)
        if ended:
            break
        trajectory.append_context(chat.extend(observation, ended=True))
    return trajectory


def padded(trajectories: list[Trajectory]) -> Rows:
    """Lay episodes out as rows."""
    lengths = torch.tensor([len(trajectory.token_ids) for trajectory in trajectories])
    width = int(lengths.max())
    ids, mask = (
        torch.tensor([row + [0] * (width - len(row)) for row in rows])
        for rows in ([t.token_ids for t in trajectories], [t.action_mask for t in trajectories])
    )
    return ids, mask.float(), lengths


def gradient(scorer: TokenScorer, rows: Rows) -> tuple[list[Tensor], float]:
    """Return the gradient of the mean log-probability and entropy, and the processor seconds it took."""
    ids, mask, lengths = rows
    parameters = list(scorer.parameters())
    started = time.process_time()
    logprobs, entropies = scorer(ids, mask, True, None, lengths)
    found = torch.autograd.grad((logprobs + entropies).sum() / mask.sum(), parameters)
    return list(found), time.process_time() - started


def difference(scorers: list[TokenScorer], rows: Rows) -> float:
    """Return the largest difference between the entries of both gradients."""
    one, other = (gradient(scorer, rows)[0] for scorer in scorers)
    return max(float((first - second).abs().max()) for first, second in zip(one, other, strict=True))


def saved(scorer: TokenScorer, rows: Rows) -> int:
    """Return the bytes that autograd keeps between the two passes, each storage counted once."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    parameters = {parameter.untyped_storage().data_ptr() for parameter in scorer.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = scorer(*rows[:2], True, None, rows[2])
    del result
    return sum(size for pointer, size in storages.items() if pointer not in parameters)


if __name__ == "__main__":
    main()
