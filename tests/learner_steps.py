"""Steps of a learner that one process and several make alike."""

import asyncio
import copy
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from base_rows import groups
from helpers import small_llama

from agent_gym.config import TrainConfig
from agent_gym.config_files import build
from agent_gym.engines.adapters import add_adapters
from agent_gym.engines.weights import whole
from agent_gym.errors import EngineError, StoppedError, TrainingError, WorkerError
from agent_gym.rollout.sharing import share_out
from agent_gym.sections import LoraSection
from agent_gym.trainers import scorer
from agent_gym.trainers.algorithm import Progress
from agent_gym.trainers.learner import Learner
from agent_gym.trainers.listening import Silence
from agent_gym.trainers.presets import make_algorithm
from agent_gym.trainers.processes import Processes, alone, join
from agent_gym.trainers.reference import frozen_copy
from agent_gym.trainers.trainer import train
from agent_gym.trainers.update import UpdateSettings
from agent_gym.trajectory import Group

SPEAR = {"clip_cov_ratio": 0.0, "replay_clip_cov_ratio": 0.0, "warmup": 1, "tool_reward": "none"}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "grpo": ("grpo", {}),
    "kl reference": ("grpo", {"kl_coefficient": 0.05}),
    "bonus": ("grpo", {"entropy_coefficient": 0.01, "aggregation": "seq-mean-token-mean"}),
    "dr-grpo": ("dr-grpo", {}),
    "rloo": ("rloo", {}),
    "reinforce++": ("reinforce++", {}),
    "gigpo": ("gigpo", {}),
    "dapo": ("dapo", {}),
    "critic": ("ppo", {"group_size": 4}),
    "epo": ("epo", {"epo.coefficient": 0.01}),
    "empg": ("empg", {}),
    "arpo": ("arpo", {"attribution": "hard"}),
    "aepo": ("aepo", {}),
    "spear summed": ("spear", {**SPEAR, "mode": "summed"}),
    "spear alternate": ("spear", {**SPEAR, "mode": "alternate"}),
    "all": ("gigpo+epo+empg", {"epo.coefficient": 0.01}),
}
SETTINGS: dict[str, Any] = {"learning_rate": 1e-3, "updates_per_step": 2, "micro_batch_tokens": 40}


@dataclass
class Made:
    """What a few steps came to."""

    metrics: list[dict[str, float]]
    gradients: dict[str, torch.Tensor]
    """Of the first step's first update."""
    weights: dict[str, torch.Tensor]
    state: dict[str, Any]
    """Of the learner."""
    signals: Any


def learner(
    name: str, processes: Processes, after: Made | None = None, *, shard: bool = False, kind: str = "", **settings: Any
) -> Learner:
    """Return a learner of a method with a small model of a kind, as it is at first or after earlier steps."""
    algorithm = make_algorithm(*METHODS[name])
    model = small_llama(tie_word_embeddings=True)
    if "adapters" in kind:
        add_adapters(model, LoraSection(rank=2), base=None, seed=3)
    if "bfloat16" in kind:
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16()
        model.config.dtype = torch.bfloat16
    if "checkpointing" in kind:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    reference = frozen_copy(model) if algorithm.needs_reference else None
    if after is not None:
        model.load_state_dict({key.removeprefix("model."): value for key, value in after.weights.items()}, strict=False)
    own = Learner(
        model,
        algorithm,
        UpdateSettings(**{**SETTINGS, **settings}),
        reference=reference,
        processes=processes,
        shard=shard,
        record_signals=True,
    )
    if after is not None:
        # An optimiser goes on in the very tensors that it is given.
        own.load_state_dict(copy.deepcopy(after.state))
    return own


def make(
    name: str,
    processes: Processes,
    *,
    steps: Sequence[int] = (0, 1, 2),
    after: Made | None = None,
    made: list[Group] | None = None,
    shard: bool = False,
    **settings: Any,
) -> Made:
    """Make steps with a method, from the beginning or from what earlier ones came to."""
    own = learner(name, processes, after, shard=shard, **settings)
    gradients: dict[str, torch.Tensor] = {}
    optimizer_step = own.updater.optimizer.step

    def step(*arguments: Any) -> Any:
        if not gradients:
            for key, parameter in own.updater.scorer.named_parameters():
                if parameter.grad is not None:
                    gradients[key] = whole(parameter.grad).clone()
        return optimizer_step(*arguments)

    own.updater.optimizer.step = step
    metrics = [own.learn(made or groups(window=number % 2 == 1), Progress(number, 10)) for number in steps]
    weights = {key: whole(value.detach()).clone() for key, value in own.updater.scorer.named_parameters()}
    return Made(metrics, gradients, weights, own.state_dict(), own.signals)


def on_this_rank(plans: Mapping[str, Mapping[str, Any]]) -> dict[str, Made]:
    """Carry out plans, named by what they are for, on this process of several.

    Args:
        plans: Arguments of `make`; "name" says the method.
    """
    processes = join(timeout=300)
    made = {}
    for key, plan in plans.items():
        with small_chunks(plan):
            made[key] = make(processes=processes, **plan)
    return made


def small_chunks(plan: Mapping[str, Any]) -> Any:
    """Return what lets the scores of a plan be computed in pieces of few tokens, where its kind says so."""
    elements = 4 * 64 if "chunks" in plan.get("kind", "") else scorer.CHUNK_ELEMENTS
    return patch.object(scorer, "CHUNK_ELEMENTS", elements)


def one_process(**plan: Any) -> Made:
    """Carry out a plan on one process."""
    with small_chunks(plan):
        return make(processes=alone(), **plan)


def few_rows() -> list[Group]:
    """Return a group of which two rows teach something: one more process has nothing to do."""
    whole = groups()[0]
    return [Group(whole.id, whole.task_id, [whole.trajectories[0], whole.trajectories[3]])]


def meet() -> list[Any]:
    """Let processes find out about each other's errors; return what each of them heard."""
    processes = join(timeout=300)
    heard: list[Any] = [processes.gather([f"{processes.rank}.{place}" for place in processes.mine(5)])]

    def fails() -> None:
        raise OSError("the disk is full")

    def wrong() -> None:
        with processes.together():
            if processes.rank == 1:
                raise EngineError("nobody answers")

    async def play(mine: list[int]) -> list[int]:
        if 2 in mine:
            raise WorkerError("the worker has died")
        return mine

    for attempt in (
        lambda: processes.told(fails),
        wrong,
        lambda: asyncio.run(share_out(processes, 3, play)),
        lambda: processes.agree(None),
    ):
        try:
            heard.append(attempt())
        except Exception as error:  # noqa: BLE001 - the test looks at it
            heard.append(error)
    return heard


def not_finite() -> dict[str, tuple[str, bool, bool]]:
    """Let something that is not finite come up on process 1 alone; return what each process has heard of it.

    Returns:
        For the policy and the critic, copied and spread out: the error, whether another process tells it, and whether
        the weights are as they were.
    """
    processes = join(timeout=300)
    heard = {}
    for part in ("policy", "critic"):
        for shard in (False, True):
            own = learner("critic", processes, shard=shard)
            assert own.critic is not None
            trained = own.updater.trained if part == "policy" else own.critic.trained
            if processes.rank == 1:
                spoil(trained)
            before = {key: whole(value.detach()).clone() for key, value in trained.plain.named_parameters()}
            try:
                with processes.together(TrainingError):
                    own.learn(groups(), Progress(0, 10))
            except TrainingError as error:
                kept = all(torch.equal(whole(v), before[k]) for k, v in trained.plain.named_parameters())
                heard[f"{part} {shard}"] = (str(error), hasattr(error, "told_by"), kept)
    return heard


def spoil(trained: Any) -> None:
    """Let the first output that a module is trained on be NaN."""

    def nan(module: Any, arguments: Any, output: Any) -> Any:
        if not torch.is_grad_enabled():
            return output
        hook.remove()
        values, *more = output if isinstance(output, tuple) else (output,)
        return (values * torch.nan, *more) if more else values * torch.nan

    hook = trained.module.register_forward_hook(nan)


class Stopper(Silence):
    """Sends SIGTERM to process 0 after a training step, which is no more than one of several."""

    def __init__(self) -> None:
        self.training = False

    def stage(self, name: str, total: int) -> None:
        self.training = name == "training"

    def advance(self, metrics: dict[str, float]) -> None:
        if self.training:
            os.kill(os.getpid(), signal.SIGTERM)


def ahead_and_stopped(values: dict[str, Any], folder: str) -> tuple[list[dict[str, Any]], StoppedError]:
    """Sample ahead in a run, and end another by SIGTERM; return the metrics of the first, the end of the other."""
    processes = join(timeout=300)
    ahead = build(TrainConfig, values | {"rollout": values["rollout"] | {"max_lag": 1}})
    metrics = train(ahead, folder + "/ahead", processes=processes).metrics
    try:
        train(build(TrainConfig, values), folder + "/stopped", listener=Stopper(), processes=processes)
    except StoppedError as error:
        return metrics, error
    raise AssertionError("the run went on")


class Killer(Silence):
    """Ends process 0 after a number of training steps, as `kill -9` does."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.training = False

    def stage(self, name: str, total: int) -> None:
        self.training = name == "training"

    def advance(self, metrics: dict[str, float]) -> None:
        self.left -= self.training
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)


def run_and_die(values: dict[str, Any], folder: str, after: int) -> None:
    """Train until process 0 is killed."""
    train(build(TrainConfig, values), folder, resume=True, listener=Killer(after))
