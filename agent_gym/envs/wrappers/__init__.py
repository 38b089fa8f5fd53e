"""Wrappers: each changes one thing about an environment, and can be forked like it."""

from agent_gym.envs.wrappers.admissible_hint import AdmissibleHint
from agent_gym.envs.wrappers.base import TextWrapper
from agent_gym.envs.wrappers.episode_recorder import EpisodeRecorder
from agent_gym.envs.wrappers.history_window import HistoryWindow
from agent_gym.envs.wrappers.invalid_action_penalty import InvalidActionPenalty
from agent_gym.envs.wrappers.reward_scaling import RewardScaling
from agent_gym.envs.wrappers.turn_limit import TurnLimit
from agent_gym.envs.wrappers.with_tools import WithTools

__all__ = [
    "AdmissibleHint",
    "EpisodeRecorder",
    "HistoryWindow",
    "InvalidActionPenalty",
    "RewardScaling",
    "TextWrapper",
    "TurnLimit",
    "WithTools",
]
