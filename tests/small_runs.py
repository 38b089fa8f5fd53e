"""Run folders made of records, without playing or training: what the viewer is tested with."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent_gym.engines.scripted import END
from agent_gym.store.run import RunFolder
from agent_gym.trajectory import Trajectory, Turn

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=alert(1)>\u2028\u2029 & <!-- 漢字 é"
"""What a page that reads it as HTML, or a file that embeds it carelessly, would run."""


def episode(
    id: str,
    *,
    task: str = "t0",
    group: str = "g0",
    success: bool = False,
    error: str | None = None,
    turns: int = 2,
    observation: str = "you see a door",
    action: str = "open it",
    metadata: dict[str, str] | None = None,
    parent: str | None = None,
    branch_turn: int | None = None,
) -> Trajectory:
    """Return an episode in bytes, as a player without a model leaves it; entropies count up, 0.01 a token."""
    trajectory = Trajectory(task, "doors", id, group, seed=2**62 + 1, goal=f"the goal of {task}", success=success)
    trajectory.error, trajectory.metadata = error, metadata or {}
    trajectory.parent_id, trajectory.branch_turn = parent, branch_turn
    for index in range(turns):
        said = f"{action} {index}"
        trajectory.append_context([*observation.encode(), END])
        answer = [*said.encode(), END]
        start = len(trajectory.token_ids)
        trajectory.append_action(answer, [-0.5] * len(answer), [0.01 * place for place in range(len(answer))])
        reward = float(success and index == turns - 1)
        trajectory.turns.append(Turn(observation, said, said, start, len(trajectory.token_ids), reward=reward))
    trajectory.score = float(success)
    trajectory.final_observation = "the end"
    return trajectory


def make_run(
    path: Path,
    batches: Sequence[tuple[int, str, Sequence[Trajectory]]] = (),
    records: Sequence[dict[str, Any]] = (),
    *,
    config: dict[str, Any] | None = None,
) -> RunFolder:
    """Write a run folder.

    Args:
        path: Where.
        batches: Step, phase and episodes of each batch.
        records: Lines of metrics.jsonl.
        config: By default that of a training run.
    """
    run = RunFolder.create(path, config if config is not None else train_config())
    if batches:
        with run.trajectories() as store:
            for step, phase, episodes in batches:
                store.add(episodes, step=step, phase=phase)
    if records:
        run.metrics_path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return run


def train_config() -> dict[str, Any]:
    return {"env": {"id": "doors"}, "model": {"path": "tiny"}, "algorithm": {"name": "grpo"}, "steps": 10}


def eval_config() -> dict[str, Any]:
    return {"env": {"id": "doors"}, "model": "expert", "split": "dev"}


def training_run(path: Path) -> RunFolder:
    """Write a training run of two steps with two groups each: a branch, a failed episode, a hostile one."""
    batches = []
    for step in (1, 2):
        kinds = [
            episode(f"train/{step}/g0e0", task="t0", group=f"train/{step}/g0", success=True),
            episode(f"train/{step}/g0e1", task="t0", group=f"train/{step}/g0", turns=3),
            episode(f"train/{step}/g1e0", task="t1", group=f"train/{step}/g1", error="WorkerError: the door fell"),
            episode(f"train/{step}/g1e1", task="t1", group=f"train/{step}/g1", observation=HOSTILE, action=HOSTILE),
        ]
        told = {"branch_probability": "0.5", "branch_entropy": "1.25", "initial_entropy": "nan"}
        branch = episode(
            f"train/{step}/g0e2", task="t0", group=f"train/{step}/g0", parent=kinds[0].id, branch_turn=1, metadata=told
        )
        branch.branch_offset = kinds[0].turns[0].end
        batches.append((step, "train", [*kinds, branch]))
    records = [
        {"phase": "train", "step": step, "success_rate": step / 4, "kl": float("nan"), "seconds": {"total": 1.5}}
        for step in (1, 2)
    ]
    return make_run(path, batches, records)


def evaluation_run(path: Path, won: Sequence[int], *, tasks: int = 6) -> RunFolder:
    """Write an evaluation of some tasks, two attempts each; both attempts at the tasks in `won` succeed."""
    episodes = [
        episode(
            f"eval/{task}/{attempt}",
            task=f"t{task}",
            group=f"eval/{task}",
            success=task in won,
            metadata={"suite": "doors/dev", "split": "dev", "task_type": "odd" if task % 2 else "even"},
        )
        for task in range(tasks)
        for attempt in range(2)
    ]
    return make_run(path, [(0, "eval", episodes)], config=eval_config())
