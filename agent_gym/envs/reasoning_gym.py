"""Questions of reasoning-gym as a TextEnv: one question an episode, the action is the answer.

Source: Stojanovski et al., "Reasoning Gym: Reasoning Environments for Reinforcement Learning with Verifiable Rewards",
2025 (the package reasoning-gym, 0.1.25).

Some of its data sets run Python on the answer that they score, which here a model has written: `eval` on lists and
matrices, sympy's parser on formulas. Answers to those are looked at first, and what is more than a literal or plain
arithmetic counts as wrong (`is_harmless`).
"""

import ast
import copy
import inspect
import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Final, Self

from agent_gym.env import State, Task
from agent_gym.envs.seeded import Dice, SeededEnv, seed_of
from agent_gym.errors import ConfigError, EpisodeEnded, MissingExtraError, UnknownIdError
from agent_gym.task_ids import SEEDS_A_SPLIT

_LONGEST_ANSWER: Final = 8192
_TAGGED: Final = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_RUNS_CODE: Final = re.compile(r"\b(eval|exec|parse_expr|sympify)\(|\bsympy\b")
_FUNCTIONS: Final = frozenset(
    (
        "sin",
        "cos",
        "tan",
        "sec",
        "csc",
        "cot",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
        "exp",
        "log",
        "ln",
        "sqrt",
    )
)
_HARMLESS: Final = (
    *(ast.Expression, ast.Constant, ast.Name, ast.Load, ast.List, ast.Tuple, ast.UnaryOp, ast.UAdd, ast.USub),
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.BitXor, ast.Call),
)
_BIGGEST_EXPONENT: Final = 99
_MOST_POWERS: Final = 40


class ReasoningGymEnv(SeededEnv):
    """A question of reasoning-gym. The reward is the data set's score of the answer, in [0, 1]; solved where it is 1.

    With several attempts a wrong answer is answered with that fact, and the reward of a turn is by how much its score
    is above the best so far, so that the rewards add up to the best score.

    A question is generated when its episode begins, and nothing is kept; where the data set reads a large file for that
    (arc_agi, codeio, figlet_font) it takes a second or more. Tasks are seeds, and the seeds of the splits
    are disjoint; data sets with few possible questions may ask the same one in two splits.

    Args:
        dataset: The name of a data set, several names, or names with weights, from which each task's is drawn.
        split: "train", "valid" or "test".
        size: Tasks a split.
        max_turns: How many answers may be given.
        answer_tags: The answer is what stands between <answer> and </answer>; otherwise the whole action is.
        render_mode: "ansi" or None.
        **dataset_options: Arguments of the data set, for example `max_terms=3`; with several, a mapping of arguments
            for each that needs any, under its name.

    Raises:
        MissingExtraError: reasoning-gym is not installed.
        UnknownIdError: There is no such data set.
        ConfigError: The data set does not take its options, or a weight is not above 0.
    """

    requirements: ClassVar[tuple[str, ...]] = ("reasoning-gym",)

    def __init__(
        self,
        dataset: str | Sequence[str] | Mapping[str, float] = "chain_sum",
        *,
        split: str = "train",
        size: int = SEEDS_A_SPLIT,
        max_turns: int = 1,
        answer_tags: bool = False,
        render_mode: str | None = None,
        **dataset_options: Any,
    ) -> None:
        super().__init__(split=split, size=size, max_turns=max_turns, render_mode=render_mode)
        self._weights = _weights(dataset)
        self._options = {dataset: dataset_options} if isinstance(dataset, str) else dataset_options
        for name in self._options:
            if name not in self._weights:
                raise UnknownIdError.of("data set among those given", name, self._weights)
        self._tags = answer_tags
        for name in self._weights:
            _make(name, self._options.get(name, {}), seed=0)
        self._question: _Question | None = None
        self._best = 0.0

    def expert(self) -> Iterator[str] | None:
        """Return the answer that was generated with the question; None before `reset`, and where there is none."""
        answer = self._question.entry["answer"] if self._question else None
        if not isinstance(answer, str):
            return None
        return iter([f"<answer>{answer}</answer>" if self._tags else answer])

    def _family(self, seed: int) -> str:
        names = list(self._weights)
        return random.Random(seed).choices(names, list(self._weights.values()))[0] if len(names) > 1 else names[0]

    def _start(self, task: Task, rng: random.Random) -> tuple[str, State]:
        name = self._family(seed_of(task))
        self._question = _Question(name, self._options.get(name, {}), seed_of(task))
        self._best = 0.0
        text = str(self._question.entry["question"])
        if self._tags:
            text += "\n\nWrite your answer between <answer> and </answer>."
        return text, self._state(0.0)

    def _act(self, action: str) -> tuple[str, State]:
        question = self._asked()
        answer = self._answer_in(action if len(action) <= _LONGEST_ANSWER else "")
        score = question.score(answer) if answer else 0.0
        gain, self._best = max(score - self._best, 0.0), max(score, self._best)
        state = self._state(gain, answered=True, invalid_action=not answer)
        return self._verdict(answer, state), state

    def _verdict(self, answer: str, state: State) -> str:
        if state.success:
            return "Your answer is right."
        if answer:
            said = "Your answer is not right."
        else:
            said = "There is no answer between <answer> and </answer>." if self._tags else "There is no answer."
        return said if state.terminated else f"{said} Try again."

    def _answer_in(self, action: str) -> str:
        """Return the answer that an action gives; empty where it gives none."""
        if not self._tags:
            return action.strip()
        found = _TAGGED.findall(action)
        return found[-1].strip() if found else ""

    def _state(self, reward: float, *, answered: bool = False, invalid_action: bool = False) -> State:
        solved = self._best >= 1
        return State(
            goal="Answer the question.",
            reward=reward,
            # The last answer ends the task: no further turn could change anything.
            terminated=solved or (answered and self.turn >= self.max_turns),
            success=solved,
            score=self._best,
            invalid_action=invalid_action,
            extra={"dataset": self._asked().name},
        )

    def _copy(self) -> Self:
        return copy.copy(self)

    def _asked(self) -> "_Question":
        if self._question is None:
            raise EpisodeEnded("There is no question yet: call reset() first.")
        return self._question


class _Question:
    """One question with what scores its answers; never changed once it is made."""

    def __init__(self, name: str, options: Mapping[str, Any], seed: int) -> None:
        self.name = name
        # A data set of one entry: some generate all that they are asked for at once.
        with Dice(seed).on_the_table():
            self._dataset = _make(name, options, seed=seed)
            self.entry: Mapping[str, Any] = self._dataset[0]
        self._seed = seed

    def score(self, answer: str) -> float:
        """Return the score of an answer, in [0, 1]; 0 for one that the data set cannot make sense of."""
        if _runs_answers(type(self._dataset).__module__) and answer != self.entry["answer"] and not is_harmless(answer):
            return 0.0
        try:
            with Dice(self._seed).on_the_table():
                score = float(self._dataset.score_answer(answer, copy.deepcopy(self.entry)))
        except Exception:  # noqa: BLE001 - some data sets raise whatever comes on answers that they do not foresee
            return 0.0
        return min(max(score, 0.0), 1.0)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


@cache
def _runs_answers(module: str) -> bool:
    """Return whether a data set's module has means to run what it is given."""
    return _RUNS_CODE.search(inspect.getsource(sys.modules[module])) is not None


def is_harmless(answer: str) -> bool:
    """Return whether evaluating an answer, as Python or by sympy, can do nothing but work out a literal or a formula.

    Text that is no expression is harmless too, unless sympy could still make one of it.
    """
    try:
        tree = ast.parse(answer, mode="eval")
    except SyntaxError:
        return not set("(!") & set(answer)
    except (ValueError, MemoryError, RecursionError):
        return False
    nodes = list(ast.walk(tree))
    powers = [node for node in nodes if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)]
    lists = any(isinstance(node, ast.List | ast.Tuple) or _is_text(node) for node in nodes)
    return (
        all(isinstance(node, _HARMLESS) for node in nodes)
        and all(_is_known_call(node) for node in nodes if isinstance(node, ast.Call))
        and all(_is_small_power(node) for node in powers)
        and len(powers) <= _MOST_POWERS
        # A text or a list times a number is as long as one likes; and a text could be evaluated in its turn.
        and not (lists and any(isinstance(node, ast.BinOp | ast.Call) for node in nodes))
        and not any(_is_text(node) and "(" in str(node.value) for node in nodes if isinstance(node, ast.Constant))
    )


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)


def _is_known_call(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id in _FUNCTIONS and not call.keywords


def _is_small_power(power: ast.BinOp) -> bool:
    """Return whether a power cannot become a number that is too long to work with."""
    exponent, base = list(ast.walk(power.right)), list(ast.walk(power.left))
    numbers = [node.value for node in exponent if isinstance(node, ast.Constant)]
    small = all(isinstance(number, int | float) and abs(number) <= _BIGGEST_EXPONENT for number in numbers)
    grows = any(isinstance(node, ast.Mult | ast.Pow | ast.Call) for node in exponent) and len(numbers) > 1
    towers = sum(isinstance(node, ast.Pow) for node in base) > 1 or any(isinstance(node, ast.Pow) for node in exponent)
    return small and not grows and not towers


def _weights(dataset: str | Sequence[str] | Mapping[str, float]) -> dict[str, float]:
    if isinstance(dataset, str):
        return {dataset: 1.0}
    weights = dict(dataset) if isinstance(dataset, Mapping) else dict.fromkeys(dataset, 1.0)
    if not weights or not all(weight > 0 for weight in weights.values()):
        raise ConfigError("dataset must name at least one data set of reasoning-gym, with weights above 0.")
    return weights


def _make(name: str, options: Mapping[str, Any], *, seed: int) -> Any:
    """Make a data set of one entry."""
    try:
        from reasoning_gym.factory import DATASETS, create_dataset
    except ImportError as error:
        raise MissingExtraError.of("reasoning-gym", "Asking questions of reasoning-gym") from error
    if name not in DATASETS:
        raise UnknownIdError.of("data set of reasoning-gym", name, DATASETS)
    try:
        return create_dataset(name, **{"size": 1, "seed": seed, **options})
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"The data set {name} does not take {dict(options)} ({error}): correct its options."
        ) from error
