"""Data that is fetched once and kept: the folder where it lies and how it gets there."""

from agent_gym.envs.data.cache import cache_folder, keeping_whole
from agent_gym.envs.data.download import download

__all__ = ["cache_folder", "download", "keeping_whole"]
