"""At its identity every piece trains like its base, bit for bit: from sampling to the weights after two steps."""

from typing import Any

import pytest
import torch
from helpers import CountEnv, run, small_llama

from agent_gym.engines.base import Sampling
from agent_gym.engines.transformers import TransformersEngine
from agent_gym.rollout.chat import TemplateChat
from agent_gym.rollout.collect import Collector
from agent_gym.rollout.episode import EpisodeSettings
from agent_gym.trainers.algorithm import Progress
from agent_gym.trainers.learner import Learner
from agent_gym.trainers.presets import BASES, METHODS, make_algorithm
from agent_gym.trainers.reference import frozen_copy
from agent_gym.trainers.update import UpdateSettings

SIZE = {"group_size": 4}
SPEAR_OFF = {"coefficient": 0.0, "tool_reward": "none", "clip_cov_ratio": 0.0}
AEPO_OFF = {"initial": 4, "dynamic_budget": False, "clipping": False, "advantage_weight": 0.0}
IDENTITIES: dict[str, tuple[str, dict[str, Any]]] = {
    "epo": ("grpo", {"coefficient": 0.0}),
    "arpo": ("grpo", {"initial": 4}),
    "arpo, hard attribution": ("grpo", {"initial": 4, "attribution": "hard"}),
    "aepo": ("grpo", AEPO_OFF),
    "empg": ("grpo", {"k": 0.0, "zeta": 0.0, "center": False}),
    "spear": ("grpo", SPEAR_OFF),
    "gigpo": ("grpo", {"step_weight": 0.0}),
    "dapo": ("grpo", {"clip_high": 0.2, "dual_clip": 3.0, "max_rounds": 0}),
    "epo+arpo+empg+spear": (
        "grpo",
        {"epo.coefficient": 0.0, "initial": 4, "k": 0.0, "zeta": 0.0, "center": False}
        | {f"spear.{key}": value for key, value in SPEAR_OFF.items()},
    ),
    "grpo+arpo": ("grpo", {"initial": 4}),
    "gigpo+epo": ("gigpo", {"coefficient": 0.0}),
    "ppo+epo": ("ppo", {"coefficient": 0.0}),
}


def trained(tokenizer: Any, name: str, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the weights after two steps with an algorithm."""
    algorithm = make_algorithm(name, SIZE | options)
    model = small_llama(len(tokenizer))
    engine = TransformersEngine(model, tokenizer)
    collector = Collector(lambda: CountEnv(max_turns=3), engine, TemplateChat(tokenizer), EpisodeSettings(Sampling(5)))
    learner = Learner(
        model,
        algorithm,
        UpdateSettings(learning_rate=1e-3, updates_per_step=2),
        reference=frozen_copy(model) if algorithm.needs_reference else None,
    )
    for step in range(2):
        tasks = ["count 0", "count 1"]
        model.eval()
        groups = run(algorithm.rollout.collect(collector, tasks, seed=step, prefix="", on_episode=None))
        assert [len(group.trajectories) for group in groups] == [4, 4]
        for number, member in enumerate(member for group in groups for member in group.trajectories):
            # A random model solves nothing; whatever the reward, both must learn the same.
            member.turns[0].reward = float(number % 3 == 0)
        learner.learn(groups, Progress(step, 4))
        run(engine.sync())
    collector.close()
    return model.state_dict()


BASE_CACHE: dict[str, dict[str, torch.Tensor]] = {}


@pytest.mark.parametrize("name", IDENTITIES)
def test_a_piece_at_its_identity_trains_like_its_base_bit_for_bit(tokenizer: Any, name: str) -> None:
    base, options = IDENTITIES[name]
    if base not in BASE_CACHE:
        BASE_CACHE[base] = trained(tokenizer, base, {})
    weights = trained(tokenizer, name.partition(",")[0], options)
    assert all(torch.equal(weights[key], value) for key, value in BASE_CACHE[base].items())


@pytest.mark.parametrize("name", [*METHODS, *(base for base in BASES if base != "grpo")])
def test_with_its_defaults_each_piece_trains_otherwise(tokenizer: Any, name: str) -> None:
    if "grpo" not in BASE_CACHE:
        BASE_CACHE["grpo"] = trained(tokenizer, "grpo", {})
    weights = trained(tokenizer, name, {})
    assert any(not torch.equal(weights[key], value) for key, value in BASE_CACHE["grpo"].items())


def test_every_method_has_an_identity() -> None:
    assert set(METHODS) <= {name.partition(",")[0] for name in IDENTITIES}
