"""Generated worlds, their questions and their pages, by task."""

import random
from dataclasses import dataclass
from functools import lru_cache

from agent_gym.env import Task
from agent_gym.envs.questions import Generated
from agent_gym.envs.search_qa.asking import Asked, ask_all, lookups
from agent_gym.envs.search_qa.corpus import world_index
from agent_gym.envs.search_qa.loading import Question
from agent_gym.envs.search_qa.world import MOST_PEOPLE, World, make_world
from agent_gym.errors import ConfigError
from agent_gym.task_ids import number_in
from agent_gym.tools.search import LocalIndex

_FEWEST_PEOPLE = 20
_HOPS = (1, 2, 3)


@dataclass(frozen=True)
class Worlds:
    """The worlds of every split; each task is about one of them, in turn.

    Raises:
        ConfigError: A number is out of range.
    """

    seed: int
    people: int
    hops: tuple[int, ...]
    count: int
    """Worlds of a split."""

    def __post_init__(self) -> None:
        if not _FEWEST_PEOPLE <= self.people <= MOST_PEOPLE:
            raise ConfigError(f"people must be from {_FEWEST_PEOPLE} to {MOST_PEOPLE}, not {self.people}.")
        if not self.hops or not set(self.hops) <= set(_HOPS):
            raise ConfigError(f"hops must be some of 1, 2 and 3, not {self.hops}.")
        if self.count < 1:
            raise ConfigError(f"worlds must be at least 1, not {self.count}.")

    def questions(self) -> Generated[Question]:
        """Return the questions; each world has as many as the first one of its split."""
        return Generated(self._question, lambda split: self.count * len(_asked(self, split, 0)))

    def index(self, task: Task) -> LocalIndex:
        """Return the index of the pages of a task's world."""
        number = number_in(task.id, f"{task.split}/") or 0
        return _index(self, task.split, number % self.count)

    def world(self, split: str, number: int) -> World:
        """Return a world of a split."""
        return make_world(split, self.seed, self.people, number)

    def _question(self, split: str, index: int) -> Question:
        turn, number = divmod(index, self.count)
        # A world may have a few questions less than the first one.
        asked = _asked(self, split, number)
        chosen = asked[turn % len(asked)]
        return Question(
            chosen.text, (chosen.answer,), lookups=lookups(self.world(split, number), chosen), kind=_hops(chosen)
        )


def _hops(asked: Asked) -> str:
    return "1 hop" if asked.hops == 1 else f"{asked.hops} hops"


@lru_cache(maxsize=64)
def _asked(worlds: Worlds, split: str, number: int) -> list[Asked]:
    rng = random.Random(f"{worlds.seed}/{split}/{number}/questions")
    return ask_all(worlds.world(split, number), worlds.hops, rng)


@lru_cache(maxsize=64)
def _index(worlds: Worlds, split: str, number: int) -> LocalIndex:
    return world_index(worlds.world(split, number))
