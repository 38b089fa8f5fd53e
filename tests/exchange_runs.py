"""A run with all that an episode can have: right ones, wrong ones, failed, cut off, branched, trained on."""

from pathlib import Path

from agent_gym.config import EvalConfig
from agent_gym.config_files import as_dict
from agent_gym.rollout.chat import ByteChat
from agent_gym.store.run import RunFolder
from agent_gym.trajectory import Trajectory, Turn

PROMPT = "You are careful."


def episode(
    task: str, attempt: int, answers: list[str], *, success: bool = False, suite: str = "shop/test"
) -> Trajectory:
    """Return an episode of some turns, with the tokens of its texts; the last turn is paid."""
    chat = ByteChat()
    made = Trajectory(task, "shop", f"{suite}/{task}/{attempt}", f"{suite}/{task}", seed=attempt, goal=f"buy {task}")
    for number, text in enumerate(answers):
        said = f"{task}: page {number} <b>é\n"
        made.append_context(chat.begin(said) if number == 0 else chat.extend(said, ended=True))
        start = len(made.token_ids)
        ids = chat.answer(text)
        made.append_action(ids, [-0.5] * len(ids), [0.25] * len(ids))
        made.turns.append(
            Turn(said, text, text.upper(), start, len(made.token_ids), env_seconds=0.5, tool_calls=number)
        )
    if made.turns:
        made.turns[-1].reward = 2.0 if success else -1.0
    made.success, made.score, made.terminated = success, 0.75 if success else 0.0, True
    made.final_observation = "Goodbye."
    made.metadata = {"suite": suite, "split": "test", "attempt": str(attempt), "task_type": "buy", "cost": "0.125"}
    return made


def episodes() -> list[Trajectory]:
    """Return two attempts each at three tasks; one fails, one runs into its limit."""
    made = [
        episode("a tea/1", attempt, ["look", "take tea"][: attempt + 1], success=attempt == 0) for attempt in range(2)
    ]
    made += [episode("b", attempt, ["look"] * 3, success=True) for attempt in range(2)]
    made += [episode("ü", attempt, ["wait"], success=False) for attempt in range(2)]
    made[4].error, made[4].terminated = "WorkerError: it died", False
    made[5].terminated, made[5].truncated = False, True
    made[5].metadata |= {"truncated_by": "tokens", "answer": "none"}
    made[3].parent_id, made[3].branch_turn, made[3].branch_offset = made[2].id, 1, made[2].turns[0].end
    return made


def make_run(path: Path, made: list[Trajectory]) -> Path:
    """Store episodes as a finished evaluation."""
    config = as_dict(EvalConfig(model="someone/model-7b"))
    config["rollout"]["system_prompt"] = PROMPT
    run = RunFolder.create(path, config)
    with run.trajectories() as store:
        store.add(made, step=0, phase="eval")
        for first in made[:1]:
            store.add_signals(0, {first.id: {"advantage": [0.5 * mask for mask in first.action_mask]}})
    run.log({"phase": "eval", "step": 0, "suite": "shop/test", "episodes": len(made)})
    return path
