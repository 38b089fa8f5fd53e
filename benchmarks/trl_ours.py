"""Our side of `trl.py`: `agent_gym.trainers.trainer.train`, as the command line runs it, a step for each line."""

import argparse
import json
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from trl_pace import Clock, Pace

from agent_gym.config import TrainConfig
from agent_gym.config_files import build
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.trainers import trainer
from agent_gym.trainers.learner import Learner
from agent_gym.trainers.sampling import Sampler
from agent_gym.trainers.scorer import TokenScorer
from agent_gym.trajectory import Group


def configuration(arguments: argparse.Namespace, system_prompt: str) -> TrainConfig:
    """Return the run: what `trl_peer.py` does, in our words."""
    options = {"max_turns": arguments.turns}
    update = {
        "learning_rate": arguments.learning_rate,
        "micro_batch_tokens": arguments.micro_batch_tokens,
        "share_prefixes": arguments.share_prefixes,
    }
    return build(
        TrainConfig,
        {
            "env": {"id": f"{Path(__file__).with_name('trl_household.py')}:CalledAlfworld", "options": options},
            "model": {"path": arguments.model},
            "rollout": {
                "tasks": arguments.groups,
                "concurrency": arguments.groups * arguments.members,
                "max_tokens": arguments.max_tokens,
                "system_prompt": system_prompt,
            },
            "algorithm": {"name": "grpo", "options": {"group_size": arguments.members}},
            "update": update,
            "measure": {"tasks": 0},
            "steps": arguments.steps,
            "checkpoint_every": arguments.steps + 1,
            "seed": arguments.seed,
            "threads": arguments.threads,
        },
    )


class Paced:
    """Hears of the run's progress, and holds it up between steps."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.groups: list[Group] = []
        self.pace = Pace(self.clock)

    def stage(self, name: str, total: int) -> None:
        """Before the first step there is another end to wait for."""
        if name == "training":
            self.left = total
            self.pace.wait()

    def advance(self, metrics: dict[str, float]) -> None:
        """A step has ended."""
        self.pace.done(self._record)
        self.left -= 1
        if self.left:
            self.pace.wait()

    def _record(self) -> dict[str, Any]:
        played = [trajectory for group in self.groups for trajectory in group.trajectories]
        first = played[0]
        return {
            "tasks": [group.task_id for group in self.groups],
            "episodes": len(played),
            "trained": sum(map(trained, self.groups)),
            "failed": sum(trajectory.error is not None for trajectory in played),
            "turns": sum(len(trajectory.turns) for trajectory in played),
            "invalid": sum(turn.invalid_action for trajectory in played for turn in trajectory.turns),
            "generations": sum(len(trajectory.turns) for trajectory in played),
            "generated": sum(sum(trajectory.action_mask) for trajectory in played),
            "tokens": sum(len(trajectory.token_ids) for trajectory in played),
            "success": sum(trajectory.success for trajectory in played) / len(played),
            "prompt": first.token_ids[: first.turns[0].start],
        }


def trained(group: Group) -> int:
    """Count the episodes of a group that are trained on: those whose reward is not the mean of all."""
    rewards = [trajectory.reward for trajectory in group.valid]
    mean = sum(rewards) / max(len(rewards), 1)
    return sum(abs(reward - mean) > 1e-9 for reward in rewards)


def main() -> None:
    """Train, a step for each line that is read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", help="What both sides are told, as JSON.")
    parser.add_argument("folder", help="Where the run is kept.")
    given = parser.parse_args()
    told = json.loads(given.settings)
    listener = Paced()
    clock = listener.clock
    collect = Sampler.groups

    def groups(sampler: Sampler, step: int) -> list[Group]:
        listener.groups = collect(sampler, step)
        return listener.groups

    Sampler.groups = groups  # type: ignore[method-assign]
    clock.wrap(Sampler, "groups", "sampling")
    clock.wrap(Learner, "learn", "update")
    clock.wrap(TransformersEngine, "_forward", "sampling: model")
    clock.wrap(TransformersEngine, "_advance", "sampling: model and drawing")
    clock.wrap(TokenScorer, "forward", "update: forward")
    clock.wrap(Accelerator, "backward", "update: backward")
    arguments = argparse.Namespace(**told)
    trainer.train(configuration(arguments, told["system_prompt"]), given.folder, listener=listener)


if __name__ == "__main__":
    main()
