"""The runs of `benchmarks/methods.py`: which there are, and how one is made. What has been made is kept."""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agent_gym.config import TrainConfig
from agent_gym.config_files import build, read_yaml

HERE = Path(__file__).parent / "methods"
"""One configuration a set-up: the warm start and GRPO. `model.path` names the set-up whose warm start is taken, or is
"tiny" where it makes its own."""

SETUPS = ("alfworld", "scienceworld", "search", "collapse")
QUICK = {"alfworld": (100, 40), "collapse": (100, 40), "search": (100, 40), "scienceworld": (24, 16)}
"""Tasks measured in a reduced run: at the beginning and the end, and in between."""


@dataclass(frozen=True)
class Method:
    """What is put on top of a set-up's GRPO."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    """Over the papers' values, which are the pieces' defaults."""
    halves: tuple[str, ...] = ()
    """Options that are half the number of steps: the papers' horizons are that or more of runs of 200."""
    spread: tuple[str, ...] = ()
    """Options that are a probability a turn of something that is to happen two or three times an episode."""


METHODS = {
    "grpo": Method("grpo"),
    "epo": Method("grpo+epo"),
    "arpo": Method("grpo+arpo"),
    "aepo": Method("grpo+aepo"),
    "empg": Method("grpo+empg"),
    # The paper's success is worth 10, of which a call's 1 is a tenth.
    "spear": Method("grpo+spear", {"tool_coefficient": 0.1}, ("warmup", "tool_decay")),
    # The paper's weights can neither be felt at such learning rates nor turn the bonus round above the corridor.
    "epo-strong": Method("grpo+epo", {"coefficient": 0.05, "smoothing": 2.0, "low": 0.5}),
    # Two of eight episodes from the beginning, in place of four: what can be shared is shared.
    "arpo-2": Method("grpo+arpo", {"initial": 2}, spread=("base_probability",)),
    # Calls are not scarce here, turns are.
    "spear-unpaid": Method("grpo+spear", {"tool_reward": "none"}, ("warmup",)),
}
COMPARED = {
    "alfworld": ("grpo", "epo", "arpo", "aepo", "empg", "spear", "arpo-2"),
    "scienceworld": ("grpo", "epo", "arpo", "aepo", "empg", "spear"),
    "search": ("grpo", "epo", "arpo", "aepo", "empg", "spear", "arpo-2", "spear-unpaid"),
    "collapse": ("grpo", "epo", "epo-strong"),
}
"""Which methods each set-up is run with."""


@dataclass(frozen=True)
class Job:
    """One training run."""

    setup: str
    method: str
    seed: int
    folder: Path
    """Of the whole benchmark."""
    quick: bool

    @property
    def run_folder(self) -> Path:
        """Where it is kept."""
        return self.folder / self.setup / f"{self.method}-{self.seed}"


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    setup: str
    method: str
    seed: int
    solved: list[bool]
    """The measured tasks at the end, in their order."""
    curve: list[tuple[int, float, int]]
    """Step, success on held-out tasks, and environment turns used in training until then."""
    entropies: list[float]
    """Of sampling, at each step."""
    rewards: list[float]
    """Mean of each step's training episodes."""
    episodes: int
    """Trained on."""
    env_turns: int
    """Taken in training; what branches share counts once."""
    tool_calls: int
    """Made in training."""
    seconds: float
    """From start to end, measurements included."""
    cpu_seconds: float
    """Of this process, without Java's."""


def settings(setup: str, *, quick: bool) -> TrainConfig:
    """Read the configuration of a set-up."""
    values = read_yaml(HERE / f"{setup}.yaml")
    if quick:
        values["measure"]["tasks"], values["measure"]["interim_tasks"] = QUICK[setup]
    return build(TrainConfig, values)


def warm_model(setup: str, folder: Path) -> Path:
    """Return the folder of the model that all runs of a set-up start from; it is trained where there is none."""
    config = settings(setup, quick=False)
    if config.model.path != "tiny":
        return warm_model(config.model.path, folder)
    where = folder / setup / "warm"
    if not where.is_dir():
        _clone(config, where)
    return where


def _clone(config: TrainConfig, where: Path) -> None:
    import torch

    from agent_gym.rollout.seeds import derive_seed
    from agent_gym.trainers.policy import load_policy
    from agent_gym.trainers.warmstart import CloneSettings, clone, demonstration_settings, play_demonstrations

    torch.set_num_threads(1)
    section = config.warm_start
    policy = load_policy(config)
    seed = derive_seed(config.seed, "warm start")
    played = list(play_demonstrations(config, policy.chat, demonstration_settings(section), seed=seed))
    how = CloneSettings(
        epochs=section.epochs,
        batch_size=section.batch_size,
        optimizer=section.optimizer,
        learning_rate=section.learning_rate,
        observation_weight=section.observation_weight,
    )
    clone(policy.model, played, how, seed=config.seed)
    # A folder that is there is complete.
    unfinished = where.with_name("warm.unfinished")
    policy.model.save_pretrained(unfinished)
    policy.tokenizer.save_pretrained(unfinished)
    unfinished.rename(where)


def warm(setup: str, folder: Path) -> float:
    """Make the set-up's model; return CPU seconds."""
    started = time.process_time()
    warm_model(setup, folder)
    return time.process_time() - started


def run(job: Job) -> Outcome:
    """Make a run, or read what has been made."""
    kept = job.run_folder / "outcome.json"
    if not kept.is_file():
        outcome = _train(job)
        kept.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
    values = json.loads(kept.read_text(encoding="utf-8"))
    return Outcome(**values | {"curve": [tuple(point) for point in values["curve"]]})


def configuration(job: Job) -> TrainConfig:
    """Return the configuration of a run."""
    config = settings(job.setup, quick=job.quick)
    method = METHODS[job.method]
    halves = {name: max(1, config.steps // 2) for name in method.halves}
    spread = {name: min(1.0, 2.5 / config.env.options["max_turns"]) for name in method.spread}
    values = config.model_dump(mode="json")
    values["seed"] = job.seed
    values["model"] = {"path": str(warm_model(job.setup, job.folder))}
    values["warm_start"]["episodes"] = 0
    values["algorithm"] = {
        "name": method.name,
        "options": {**config.algorithm.options, **method.options, **halves, **spread},
    }
    values["checkpoint_every"] = config.steps
    return build(TrainConfig, values)


def _train(job: Job) -> Outcome:
    from agent_gym.trainers.trainer import train

    wall, cpu = time.perf_counter(), time.process_time()
    records = train(configuration(job), job.run_folder, resume=True).metrics
    training = [record for record in records if record["phase"] == "train"]
    return Outcome(
        job.setup,
        job.method,
        job.seed,
        solved=_solved(job),
        curve=_curve(records),
        entropies=[record["entropy"] for record in training],
        rewards=[record["reward"] for record in training],
        episodes=sum(record["episodes"] for record in training),
        env_turns=sum(record["env_turns"] for record in training),
        tool_calls=sum(record["tool_calls"] for record in training),
        seconds=time.perf_counter() - wall,
        cpu_seconds=time.process_time() - cpu,
    )


def _curve(records: list[dict[str, Any]]) -> list[tuple[int, float, int]]:
    turns, points = 0, []
    for record in records:
        if record["phase"] == "train":
            turns += record["env_turns"]
        elif record["phase"] in ("before", "during", "after"):
            points.append((record["step"], record["success_rate"], turns))
    return points


def _solved(job: Job) -> list[bool]:
    from agent_gym.store.run import RunFolder

    with RunFolder.open(job.run_folder).trajectories() as store:
        # The id ends in the number of the task: "after/12/7".
        after = {int(each.id.rpartition("/")[2]): each.success for each in store.select(phase="after")}
    return [after[number] for number in sorted(after)]
