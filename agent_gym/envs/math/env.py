r"""Questions of mathematics, with Python or a calculator at hand; generated ones, or the usual data sets.

Sources: Cobbe et al., "Training Verifiers to Solve Math Word Problems" (GSM8K), 2021; Hendrycks et al., "Measuring
Mathematical Problem Solving With the MATH Dataset", 2021; the American Invitational Mathematics Examination.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Final

from agent_gym.envs.math.checking import as_number, same_number, shared_checker, stated_answer
from agent_gym.envs.math.loading import KNOWN, read_problem
from agent_gym.envs.math.problems import FAMILIES, LEVELS, Problem, make_problem
from agent_gym.envs.questions import Generated, Loaded, Source
from agent_gym.envs.questions.env import QuestionEnv
from agent_gym.envs.questions.sources import Data, draw_for_split
from agent_gym.envs.tool_env import AnyTool, Grade
from agent_gym.errors import ConfigError, UnknownIdError
from agent_gym.sandbox.base import Sandbox
from agent_gym.task_ids import SEEDS_A_SPLIT
from agent_gym.tools.calls import ToolCall
from agent_gym.tools.python import PythonTool
from agent_gym.tools.syntax import Parsed
from agent_gym.tools.syntax.arpo import boxed

_PYTHON: Final = "python"


class MathEnv(QuestionEnv[Problem]):
    r"""Solve a problem; the answer stands in `\boxed{}`.

    The default generates problems of twenty families, whose answers are numbers; another way to write the same number
    is right. Answers to other data are compared by math-verify, in a process of its own. The sandbox is opened when the
    agent first runs Python, and is not needed before.

    Args:
        data: Problems to ask instead: a file (.jsonl, .json, .csv, .parquet; compressed or not), a file for each
            split, one of `loading.KNOWN` ("gsm8k", "math500", "aime24", "aime25"), or "owner/name" of the hub.
        tools: "python", "calculator", "none", or several tools, see `ToolEnv`.
        sandbox: Where the tool "python" runs, see `agent_gym.tools.python.PythonTool`.
        split: "train", "valid" or "test".
        families: Which families generated problems are from; all if None.
        levels: How difficult they are: some of 1, 2 and 3.
        format_reward: Reward of an answer that can be read and is wrong; a right one has 1.
        **options: See `ToolEnv`: syntax, max_calls, max_turns ...

    Raises:
        MissingExtraError: Data is given, and math-verify is not installed.
        UnknownIdError: There is no such data set or family.
        ConfigError: A level is none of those, or the reward is not below 1.
        DataError: A file cannot be read.
    """

    task_noun: ClassVar[str] = "problem"
    answer_form: ClassVar[str] = "\\boxed{{{}}}"

    def __init__(
        self,
        data: Data | None = None,
        *,
        tools: str | Sequence[AnyTool] = _PYTHON,
        sandbox: str | Sandbox = "auto",
        split: str = "train",
        families: Sequence[str] | None = None,
        levels: int | Sequence[int] = LEVELS,
        format_reward: float = 0.0,
        **options: Any,
    ) -> None:
        if not 0 <= format_reward < 1:
            raise ConfigError(f"format_reward must be at least 0 and below 1, not {format_reward}.")
        source: Source[Problem]
        self._same: Callable[[str, str], bool]
        if data is None:
            self._same = same_number
            source = _generated(families, levels)
        else:
            self._same = shared_checker().same
            source = Loaded(data, split=split, known=KNOWN, read=read_problem)
        named: Sequence[AnyTool] = [tools] if isinstance(tools, str) else tools
        chosen = [PythonTool(sandbox) if tool == _PYTHON else tool for tool in named if tool != "none"]
        super().__init__(source, chosen, split=split, **options)
        # The process that compares formulas is waited for, too.
        self.blocking = self.blocking or data is not None
        self._only_numbers = data is None
        self._format_reward = format_reward

    def expert(self) -> Iterator[str] | None:
        """Return a calculation in Python, where both are at hand, and the answer."""
        if self._question is None:
            return None
        problem, turns = self._question, []
        parameter = self.toolbox.text_parameter(_PYTHON)
        if problem.code and parameter is not None:
            turns.append(self.write(ToolCall(_PYTHON, {parameter: problem.code}), "I will calculate it."))
        return iter([*turns, self.write_answer(problem.answer)])

    def _said(self, question: Problem) -> Sequence[str]:
        return (question.text, question.answer)

    def _kind(self, question: Problem) -> str:
        return question.family

    def _worded(self, question: Problem) -> str:
        return question.text

    def _answer_in(self, parsed: Parsed) -> str | None:
        answer = super()._answer_in(parsed)
        return boxed(parsed.content) if answer is None else answer

    def _grade(self, answer: str) -> Grade:
        stated = stated_answer(answer)
        gold = self._asked().answer
        right = self._same(stated, gold)
        readable = as_number(stated) is not None if self._only_numbers else bool(stated)
        # Formulas have no normal form that is cheap; those that are right are one vote in any case.
        said = gold if right else stated
        number = as_number(said)
        vote = said if number is None else str(number)
        return Grade(float(right), 1.0 if right else self._format_reward if readable else 0.0, vote=vote)


def _generated(families: Sequence[str] | None, levels: int | Sequence[int]) -> Generated[Problem]:
    names = tuple(FAMILIES if families is None else families)
    wanted = (levels,) if isinstance(levels, int) else tuple(levels)
    for name in names:
        if name not in FAMILIES:
            raise UnknownIdError.of("family of problems", name, FAMILIES)
    if not names or not wanted or not set(wanted) <= set(LEVELS):
        raise ConfigError(f"There must be a family of problems, and levels from 1, 2 and 3, not {levels}.")

    def make(split: str, index: int) -> Problem:
        # Every family and level in turn: any stretch of tasks is a mixture.
        turn, family = divmod(index, len(names))
        level = wanted[turn % len(wanted)]
        return draw_for_split(
            split,
            lambda attempt: make_problem(names[family], level, f"{split}/{index}/{attempt}"),
            lambda made: made.text,
        )

    return Generated(make, lambda split: SEEDS_A_SPLIT)
