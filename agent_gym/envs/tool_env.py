"""ToolEnv: an environment in which an agent calls tools until it answers; the base of search_qa, math and code.

Knows nothing of what is asked, of which tools there are, or of how calls are written.
"""

import copy
import random
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Self

from agent_gym.env import State, Task, TextEnv
from agent_gym.errors import ConfigError
from agent_gym.tools.base import Tool
from agent_gym.tools.calls import ToolCall, ToolResult
from agent_gym.tools.syntax import Parsed, get_syntax
from agent_gym.tools.toolbox import Toolbox

AnyTool = Tool | type[Tool] | Callable[..., Any] | str
"""Whatever `agent_gym.tools.as_tool` takes."""

_OPEN, _CLOSE = "<answer>", "</answer>"
_THOUGHT_FORMS: Final = {"arpo": "<think> {} </think> ", "react": "Thought: {}\n"}
"""How a thought is written in the syntaxes that want one."""
_CALLS_A_TURN: Final = 8
_LONGEST_RESULT: Final = 8000
"""Eight of these still fit into the space of observations."""


@dataclass(frozen=True, slots=True)
class Grade:
    """What an answer is worth."""

    score: float
    """In [0, 1]; the task is solved at 1."""
    reward: float | None = None
    """The score, if None."""
    told: str = ""
    """What the agent is told; whether its answer is right, if empty."""
    vote: str | None = None
    """The answer in a form that all ways of writing it share, as far as the grade is the same for them: "5" for "5.0".
    Votes over several attempts count it; the answer as it was written, if None."""


class ToolEnv(TextEnv):
    """Asks something; the agent calls tools, reads what they give, and answers.

    A subclass writes `tasks`, `_ask` and `_grade`. Its own state of an episode must not be changed in place, or it
    extends `_copy`.

    A turn that calls tools is answered by their results, in order; a malformed call by the reason. An answer is what
    the syntax has for one ("Final Answer: ..." in "react"), `<answer>...</answer>` where it has nothing, or a call of a
    tool that is `final`, such as "answer". A turn that does both only calls: what was written before the results were
    read is no answer.

    Args:
        tools: Tools, see `agent_gym.tools.as_tool`: objects, typed functions, names, "module:name".
        syntax: How calls are written, see `agent_gym.tools.get_syntax`: "hermes", "arpo", "react" ...
        max_calls: Calls in one episode; None for no limit.
        show_budget: Whether each observation ends with how many calls are left.
        result_characters: Longest text of a result (at most 8,000).
        instructions: Whether the first observation tells how to call the tools; False where a system prompt does.
        max_turns: The episode is truncated after so many turns.
        **options: See `TextEnv`: split, render_mode.

    Raises:
        UnknownIdError: There is no such syntax.
        ToolError: Something is no tool.
        ConfigError: A limit is out of range.
    """

    answer_form: ClassVar[str] = "<answer>{}</answer>"
    """How an answer is written."""
    answer_forms: ClassVar[Mapping[str, str]] = {
        "arpo": "<answer> \\boxed{{{}}} </answer>",
        "react": "Final Answer: {}",
    }
    """The same, in the syntaxes that have a form of their own for it, and tell the agent of it."""

    def __init__(
        self,
        tools: Sequence[AnyTool] = (),
        *,
        syntax: str = "hermes",
        max_calls: int | None = None,
        show_budget: bool = False,
        result_characters: int = 4000,
        instructions: bool = True,
        max_turns: int = 10,
        **options: Any,
    ) -> None:
        super().__init__(max_turns=max_turns, **options)
        if not 1 <= result_characters <= _LONGEST_RESULT:
            raise ConfigError(f"result_characters must be from 1 to {_LONGEST_RESULT:,}, not {result_characters}.")
        self.syntax = get_syntax(syntax)
        self.toolbox = Toolbox(tools, max_calls=max_calls, max_characters=result_characters)
        self.blocking = type(self).blocking or self.toolbox.blocking
        self._show_budget = show_budget
        self._instructions = instructions
        self._goal = ""
        self._answer = ""
        self._vote = ""

    # -- what a subclass writes ------------------------------------------------------------------------------------

    @abstractmethod
    def _ask(self, task: Task, rng: random.Random) -> str:
        """Begin `task`; return what is asked."""

    @abstractmethod
    def _grade(self, answer: str) -> Grade:
        """Return what an answer to the current task is worth. Must not raise on any string."""

    def _answer_in(self, parsed: Parsed) -> str | None:
        """Return the answer in a turn that calls nothing; None where there is none."""
        if parsed.answer is not None:
            return parsed.answer
        end = parsed.content.rfind(_CLOSE)
        start = parsed.content.rfind(_OPEN, 0, max(end, 0))
        return parsed.content[start + len(_OPEN) : end].strip() if 0 <= start < end else None

    def _extra(self) -> dict[str, Any]:
        """Return further values for `info`; the same keys at every turn."""
        return {}

    def _unanswered(self) -> float:
        """Return the reward of the last turn of an episode that ends without an answer."""
        return 0.0

    def _how_to_answer(self) -> str:
        """Return what tells the agent how to answer, where the syntax does not; may be empty."""
        if self.syntax.name in self.answer_forms:
            return ""
        return f"When you know the answer, write {self.answer_form.format('answer')}."

    # -- what an expert writes -------------------------------------------------------------------------------------

    def write(self, call: ToolCall, thought: str = "") -> str:
        """Return the turn that makes a call, after a thought where the syntax wants one."""
        return self._thought(thought or f"I will use {call.name}.") + self.syntax.write(call)

    def write_answer(self, answer: str, thought: str = "") -> str:
        """Return the turn that answers."""
        return self._thought(thought or "I know the answer.") + self._answer_written(answer)

    def _answer_written(self, answer: str) -> str:
        return self.answer_forms.get(self.syntax.name, self.answer_form).format(answer)

    def _thought(self, thought: str) -> str:
        return _THOUGHT_FORMS.get(self.syntax.name, "").format(thought)

    # -- the episode -----------------------------------------------------------------------------------------------

    def grade(self, answer: str) -> Grade:
        """Return what an answer to the current task is worth, without giving it; the episode goes on.

        Raises:
            ConfigError: What it is worth depends on more of the episode than the answer.
        """
        return self._grade(answer)

    def close(self) -> None:
        """Let go of what the tools use."""
        self.toolbox.close()

    def _start(self, task: Task, rng: random.Random) -> tuple[str, State]:
        self._answer = self._vote = ""
        self.toolbox.setup()
        self._goal = self._ask(task, rng)
        parts = [self._goal]
        if self._instructions:
            told = self.syntax.instructions(self.toolbox) if self.toolbox.names else ""
            parts = [part for part in (told, self._how_to_answer()) if part] + parts
        return "\n\n".join(parts) + self._budget(), self._state()

    def _act(self, action: str) -> tuple[str, State]:
        parsed = self.syntax.parse(action, self.toolbox)
        if parsed.calls:
            return self._call(parsed.calls)
        answer = self._answer_in(parsed)
        if answer is None:
            return self._reminder() + self._budget(), self._state(invalid_action=True)
        return self._finish(answer)

    def _call(self, calls: Sequence[ToolCall]) -> tuple[str, State]:
        """Make calls one after the other; one that ends the episode gives the answer."""
        results: list[ToolResult] = []
        for number, call in enumerate(calls):
            if number >= _CALLS_A_TURN and not call.problem:
                call = replace(call, problem=f"Only {_CALLS_A_TURN} calls can be made in one turn.")
            results.append(self.toolbox.call(call))
            if results[-1].final:
                return self._finish(results[-1].text)
            if number == _CALLS_A_TURN:
                break
        invalid = any(result.status in ("invalid", "unknown") for result in results)
        return self.syntax.show(results) + self._budget(), self._state(invalid_action=invalid)

    def _finish(self, answer: str) -> tuple[str, State]:
        self._answer = answer
        grade = self._grade(answer)
        self._vote = answer.strip() if grade.vote is None else grade.vote
        told = grade.told or ("Your answer is right." if grade.score >= 1 else "Your answer is not right.")
        return told, self._state(grade)

    def _reminder(self) -> str:
        """Return what a turn is answered that neither calls nor answers."""
        names = self.toolbox.names
        how = self._answer_written("your answer")
        if not names:
            return f"There is no answer in this. Write {how}."
        example = self.syntax.write(ToolCall(names[0], _sketched(self.toolbox, names[0])))
        return f"There is neither a call nor an answer in this. Write a call such as\n{example}\nor the answer: {how}"

    def _budget(self) -> str:
        limit = self.toolbox.max_calls
        if not self._show_budget or limit is None:
            return ""
        return f"\n({max(0, limit - self.toolbox.calls_made)} of {limit} calls left)"

    def _state(self, grade: Grade | None = None, *, invalid_action: bool = False) -> State:
        if grade is not None:
            reward = grade.score if grade.reward is None else grade.reward
        else:
            reward = self._unanswered() if self.turn >= self.max_turns else 0.0
        return State(
            goal=self._goal,
            reward=reward,
            terminated=grade is not None,
            success=grade is not None and grade.score >= 1,
            score=grade.score if grade is not None else 0.0,
            invalid_action=invalid_action,
            extra={
                "tool_calls": self.toolbox.calls_made,
                "answer": self._answer,
                "vote": self._vote,
                **self._extra(),
            },
        )

    def _copy(self) -> Self:
        twin = copy.copy(self)
        twin.toolbox = self.toolbox.fork()
        return twin


def _sketched(toolbox: Toolbox, name: str) -> dict[str, Any]:
    """Return arguments that show what a call looks like."""
    return dict.fromkeys(toolbox.tools[name].parameters.get("required", ()), "...")
