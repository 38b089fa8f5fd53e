"""WebShop as a TextEnv: the page flow, the observations and the reward of the original, in plain Python.

Source: Yao et al., "WebShop: Towards Scalable Real-World Web Interaction with Grounded Language Agents", 2022.
"""

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from agent_gym.env import LazyTasks, State, Task, TextEnv
from agent_gym.envs.webshop.catalogue import Goal, Product, Shop, synthetic_shop
from agent_gym.envs.webshop.pages import Page, Text, act, clickables, content
from agent_gym.envs.webshop.reward import RewardParts, score_purchase
from agent_gym.envs.webshop.search import SearchIndex
from agent_gym.errors import EpisodeEnded, UnknownIdError
from agent_gym.task_ids import number_in

_SPLIT_STARTS = {"test": 0, "valid": 500, "train": 1500}
"""The first goal of each split; a split ends where the next one begins."""
_LONGEST_ACTION = 4096
_TASK_PREFIX = "goal-"

Mode = Literal["text", "text_rich"]


class WebShopEnv(TextEnv):
    """Shop by instruction: `search[words]` on the first page, `click[what]` on every other; `click[buy now]` ends.

    The reward comes with the purchase and lies in [0, 1]; the task is solved where it is 1. By convention of the
    original, goals 0-499 are for testing, 500-1,499 for validation, and the others for training.

    Args:
        shop: Products and goals (see `load_shop`), or the folder of the original files; a synthetic shop if None.
        split: "train", "valid" or "test".
        observation: "text": pieces of the page joined by [SEP]; "text_rich": one a line, buttons marked.
        show_attributes: Whether item pages have a button for attributes.
        max_turns: The episode is truncated after so many turns.
        render_mode: "ansi" or None.

    Raises:
        UnknownIdError: No such split or mode of observation.
        MissingExtraError: rapidfuzz or bm25s is not installed.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "valid", "test")
    requirements: ClassVar[tuple[str, ...]] = ("bm25s", "rapidfuzz")

    def __init__(
        self,
        shop: Shop | str | Path | None = None,
        *,
        split: str = "train",
        observation: Mode = "text",
        show_attributes: bool = False,
        max_turns: int = 15,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(max_turns=max_turns, split=split, render_mode=render_mode)
        if observation not in ("text", "text_rich"):
            raise UnknownIdError.of("observation mode", observation, ("text", "text_rich"))
        self._folder = Path(shop) if isinstance(shop, str | Path) else None
        self._store = _opened(shop)
        self._mode = observation
        self._show_attributes = show_attributes
        self._goal: Goal | None = None
        self._page = Page()

    def tasks(self, split: str) -> Sequence[Task]:
        """Return the goals of a split."""
        count = len(self._store.shop.goals)
        starts = sorted(_SPLIT_STARTS.values())
        start = _SPLIT_STARTS[split]
        end = min((other for other in starts if other > start), default=count)
        numbers = range(min(start, count), min(end, count))
        return LazyTasks(len(numbers), lambda index: Task(_task_id(numbers[index]), split))

    def find_task(self, task_id: str) -> Task:
        """Return the task with that id, from whichever split has it.

        Raises:
            UnknownIdError: There is no such goal.
        """
        number = number_in(task_id, _TASK_PREFIX)
        count = len(self._store.shop.goals)
        if number is None or number >= count:
            raise UnknownIdError(
                f"Unknown task {task_id!r}: the ids go from {_task_id(0)!r} to {_task_id(count - 1)!r}."
            )
        split = max((start, split) for split, start in _SPLIT_STARTS.items() if start <= number)[1]
        return Task(task_id, split)

    def expert(self) -> Iterator[str] | None:
        """Return a purchase of the product that the goal was written for, with the options that it asks for.

        None before the first `reset`, and where the search for the product's own title does not find it.
        """
        if self._goal is None:
            return None
        wanted = self._store.product(self._goal.asin)
        query = wanted.title.replace("[", " ").replace("]", " ")
        found = [product.asin for product in self._store.find(query.lower())]
        if wanted.asin not in found:
            return None
        pages = found.index(wanted.asin) // 10
        values = [value.lower() for values in wanted.options.values() for value in values]
        options = [option for option in self._goal.options if option.lower() in values]
        clicks = [*["next >"] * pages, wanted.asin.lower(), *options, "buy now"]
        return iter([f"search[{query}]", *(f"click[{click}]" for click in clicks)])

    def content_of(self, task: Task) -> str:
        """Return what a goal asks for, and what is bought for it."""
        goal = self._store.shop.goals[int(task.id.removeprefix(_TASK_PREFIX))]
        return "\n".join([goal.instruction, goal.asin, *goal.attributes, *goal.options])

    def data_files(self) -> Mapping[str, Path]:
        """Return the folder of the original files, if there is one."""
        return {"shop": self._folder} if self._folder else {}

    def _start(self, task: Task, rng: random.Random) -> tuple[str, State]:
        self._goal = self._store.shop.goals[int(task.id.removeprefix(_TASK_PREFIX))]
        self._page = Page()
        return self._rendered(), self._state(None, invalid=False)

    def _act(self, action: str) -> tuple[str, State]:
        goal = self._current()
        short = action if len(action) <= _LONGEST_ACTION else ""
        page = act(self._page, short, self._store.find, show_attributes=self._show_attributes)
        parts = None
        if page is not None:
            self._page = page
            if page.kind == "done" and page.product is not None:
                parts = score_purchase(page.product, page.options, goal, self._store.product(goal.asin))
        return self._rendered(), self._state(parts, invalid=page is None)

    def _copy(self) -> Self:
        return copy.copy(self)

    def _current(self) -> Goal:
        if self._goal is None:
            raise EpisodeEnded("There is no goal yet: call reset() first.")
        return self._goal

    def _rendered(self) -> str:
        """Return the page as text, the instruction first, as the original shows it."""
        texts = content(self._page, show_attributes=self._show_attributes)
        head = [Text("WebShop")] if self._page.kind == "search" else []
        texts = [*head, Text("Instruction:"), Text(self._current().instruction), *texts]
        if self._mode == "text":
            return " [SEP] ".join(text.content for text in texts)
        marks = {"plain": "{}", "button": "[button] {} [button_]", "clicked": "[clicked button] {} [clicked button_]"}
        return "\n".join(marks[text.style].format(text.content) for text in texts)

    def _state(self, parts: RewardParts | None, *, invalid: bool) -> State:
        goal, reward = self._current(), parts.total if parts else 0.0
        return State(
            goal=goal.instruction,
            reward=reward,
            terminated=parts is not None,
            success=reward == 1,
            score=reward,
            invalid_action=invalid,
            admissible=self._admissible(),
            extra={"reward_parts": parts},
        )

    def _admissible(self) -> Callable[[], Sequence[str]]:
        """Return a function that lists the actions of this page; on the first page one searches for its own words."""
        page, show_attributes, instruction = self._page, self._show_attributes, self._current().instruction

        def listed() -> list[str]:
            if page.kind == "search":
                return [f"search[{instruction.partition(',')[0]}]"]
            return [f"click[{what}]" for what in clickables(page, show_attributes=show_attributes)]

        return listed


def _task_id(number: int) -> str:
    return f"{_TASK_PREFIX}{number}"


class _Store:
    """A shop with its search index; environments share it and do not change it."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self._index = SearchIndex(shop.products)
        self._by_asin = {product.asin: product for product in shop.products}
        self.find = lru_cache(maxsize=4096)(self._index.search)

    def product(self, asin: str) -> Product:
        """Return the product of that number."""
        return self._by_asin[asin]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def _opened(shop: Shop | str | Path | None) -> _Store:
    if isinstance(shop, Shop):
        return _Store(shop)
    return _synthetic_store() if shop is None else _loaded_store(str(Path(shop).resolve()))


@lru_cache(maxsize=1)
def _synthetic_store() -> _Store:
    return _Store(synthetic_shop())


@lru_cache(maxsize=2)
def _loaded_store(folder: str) -> _Store:
    from agent_gym.envs.webshop.loading import load_shop

    return _Store(load_shop(folder))
