"""Data that is fetched once and kept: the folder where it lies and how it gets there."""

from agent_gym.envs.data.cache import DataError, cache_folder, replacing
from agent_gym.envs.data.download import download

__all__ = ["DataError", "cache_folder", "download", "replacing"]
