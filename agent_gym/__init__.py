"""A gym for language-model agents.

Importing the package is cheap: gymnasium, torch and transformers are imported when they are first needed.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent_gym.config import EvalConfig, TrainConfig
    from agent_gym.env import State, Task, TextEnv
    from agent_gym.envs.tool_env import ToolEnv
    from agent_gym.errors import AgentGymError
    from agent_gym.evaluation.runner import evaluate
    from agent_gym.registry import make, register, specs
    from agent_gym.tools.base import Tool, tool
    from agent_gym.tools.calls import ToolCall
    from agent_gym.tools.toolbox import Toolbox
    from agent_gym.trainers.trainer import train
    from agent_gym.trajectory import Group, Trajectory, Turn

__version__ = "0.1.0"

_HOMES = {
    "AgentGymError": "errors",
    "EvalConfig": "config",
    "Group": "trajectory",
    "State": "env",
    "Task": "env",
    "TextEnv": "env",
    "Tool": "tools.base",
    "ToolCall": "tools.calls",
    "ToolEnv": "envs.tool_env",
    "Toolbox": "tools.toolbox",
    "TrainConfig": "config",
    "Trajectory": "trajectory",
    "Turn": "trajectory",
    "evaluate": "evaluation.runner",
    "make": "registry",
    "register": "registry",
    "specs": "registry",
    "tool": "tools.base",
    "train": "trainers.trainer",
}

__all__ = [
    "AgentGymError",
    "EvalConfig",
    "Group",
    "State",
    "Task",
    "TextEnv",
    "Tool",
    "ToolCall",
    "ToolEnv",
    "Toolbox",
    "TrainConfig",
    "Trajectory",
    "Turn",
    "__version__",
    "evaluate",
    "make",
    "register",
    "specs",
    "tool",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'agent_gym' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"agent_gym.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)


if "gymnasium" in sys.modules:
    # So that gymnasium.make("agent_gym:agent_gym/ALFWorld-v1"), which imports this module, finds the environment.
    importlib.import_module("agent_gym.registry").register_in_gymnasium()
