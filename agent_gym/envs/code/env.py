"""Programming tasks with hidden tests; generated ones, HumanEval, MBPP, and what has their forms.

Sources: Chen et al., "Evaluating Large Language Models Trained on Code" (HumanEval), 2021; Austin et al., "Program
Synthesis with Large Language Models" (MBPP), 2021.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final

from agent_gym.envs.code.answers import complete, fenced_blocks, program_in
from agent_gym.envs.code.loading import KNOWN, read_task
from agent_gym.envs.code.tasks import LENGTHS, CodeTask, generate
from agent_gym.envs.code.verdict import Judge, Verdict
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

REWARDS: Final = ("all", "share")
_PYTHON: Final = "python"


class CodeEnv(QuestionEnv[CodeTask]):
    """Write a function; the answer is a program, best in a fenced block.

    The agent may try its code with the tool `python`. What it answers is judged in sandboxes that it has never touched,
    see `agent_gym.envs.code.verdict` for what holds. Where the sandbox itself fails, the episode does.

    Args:
        data: Tasks to set instead of generated ones: a file in the form of HumanEval or MBPP (.jsonl, .parquet ...;
            compressed or not), a file for each split, one of `loading.KNOWN` ("humaneval", "mbpp",
            "mbpp-sanitized"), or "owner/name" of the hub.
        tools: Tools for the agent, see `ToolEnv`.
        sandbox: Where programs are judged and the tool "python" runs: a name, see `agent_gym.sandbox.make`, or a
            sandbox.
        split: "train", "valid" or "test".
        reward: "all": 1 where all tests pass, else 0; "share": the share of tests that pass.
        lengths: How many steps generated tasks have: some of 1, 2 and 3.
        shown_tests: How many of the tests of a task of MBPP are shown.
        timeout: Seconds for one run of a program, all its tests together.
        allow_weak_verdicts: Whether tasks whose tests pass more than plain data may be judged at all; a program
            can forge such a verdict. They fail with a DataError otherwise.
        **options: See `ToolEnv`: syntax, max_calls, max_turns ...

    Raises:
        UnknownIdError: There is no such data set or reward.
        ConfigError: A number is out of range.
        DataError: A file cannot be read.
    """

    blocking: bool = True
    answer_forms: ClassVar[Mapping[str, str]] = {"arpo": "<answer>\n{}\n</answer>", "react": "Final Answer: {}"}

    def __init__(
        self,
        data: Data | None = None,
        *,
        tools: Sequence[AnyTool] = (_PYTHON,),
        sandbox: str | Sandbox = "auto",
        split: str = "train",
        reward: str = "all",
        lengths: int | Sequence[int] = LENGTHS,
        shown_tests: int = 1,
        timeout: float = 10.0,
        allow_weak_verdicts: bool = False,
        **options: Any,
    ) -> None:
        if reward not in REWARDS:
            raise UnknownIdError.of("reward", reward, REWARDS)
        if timeout <= 0 or shown_tests < 0:
            raise ConfigError(f"timeout must be above 0 and shown_tests at least 0, not {timeout} and {shown_tests}.")
        source: Source[CodeTask]
        if data is None:
            source = _generated(lengths)
        else:
            source = Loaded(data, split=split, known=KNOWN, read=partial(read_task, shown_tests=shown_tests))
        chosen = [PythonTool(sandbox) if tool == _PYTHON else tool for tool in tools]
        super().__init__(source, chosen, split=split, **options)
        self._sandbox = sandbox
        self._judge = Judge(self._opened, timeout=timeout, allow_weak=allow_weak_verdicts)
        self._reward = reward
        self._verdict: Verdict | None = None

    def expert(self) -> Iterator[str] | None:
        """Return a trial of the task's own solution, and that as the answer; None where there is none."""
        task = self._question
        if task is None or not task.solution:
            return None
        turns = []
        parameter = self.toolbox.text_parameter(_PYTHON)
        if task.example and parameter is not None:
            trial = f"{task.solution}\n{task.example}"
            turns.append(self.write(ToolCall(_PYTHON, {parameter: trial}), "I will try it."))
        return iter([*turns, self.write_answer(f"```python\n{task.solution.strip()}\n```")])

    def _said(self, question: CodeTask) -> Sequence[str]:
        return (question.statement, question.function, *map(repr, question.tests), *question.check)

    def _worded(self, question: CodeTask) -> str:
        # A machine that cannot judge programs says so before the first is written.
        self._opened()
        self._verdict = None
        return question.statement

    def _how_to_answer(self) -> str:
        return f"Answer with the whole program in a fenced block: {self._answer_written('```python ... ```')}"

    def _answer_in(self, parsed: Parsed) -> str | None:
        answer = super()._answer_in(parsed)
        return parsed.content if answer is None and fenced_blocks(parsed.content) else answer

    def _grade(self, answer: str) -> Grade:
        task = self._asked()
        self._verdict = verdict = self._judge.judge(task, complete(program_in(answer, task.function), task))
        share = verdict.passed / verdict.total
        told = f"{verdict.passed} of {verdict.total} tests passed."
        if verdict.problem:
            told += f" The program failed: {verdict.problem}."
        return Grade(share, share if self._reward == "share" else float(verdict.solved), told)

    def _extra(self) -> dict[str, Any]:
        verdict = self._verdict
        return {"tests_passed": verdict.passed if verdict else 0, "strong_verdict": verdict is None or verdict.strong}

    def _opened(self) -> Sandbox:
        """Return the sandbox, which is opened when it is first needed.

        Raises:
            SandboxUnavailable: This machine has none.
        """
        if not isinstance(self._sandbox, str):
            return self._sandbox
        from agent_gym.sandbox import shared

        return shared(self._sandbox)


def _generated(lengths: int | Sequence[int]) -> Generated[CodeTask]:
    wanted = (lengths,) if isinstance(lengths, int) else tuple(lengths)
    if not wanted or not set(wanted) <= set(LENGTHS):
        raise ConfigError(f"lengths must be some of 1, 2 and 3, not {lengths}.")

    def make(split: str, index: int) -> CodeTask:
        return draw_for_split(
            split, lambda attempt: generate(f"{split}/{index}/{attempt}", wanted), lambda made: made.solution
        )

    return Generated(make, lambda split: SEEDS_A_SPLIT)
