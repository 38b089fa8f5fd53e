"""Gives tools to any environment."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from agent_gym.env import Info, TextEnv
from agent_gym.envs.wrappers.base import TextWrapper
from agent_gym.errors import EpisodeEnded
from agent_gym.tools.base import Tool
from agent_gym.tools.calls import ToolResult
from agent_gym.tools.recording import Recording
from agent_gym.tools.showing import shown
from agent_gym.tools.syntax import Parsed, get_syntax
from agent_gym.tools.toolbox import Toolbox

_LONGEST = 65_000
"""Characters of all results of a turn together: what fits into the space of observations."""


class WithTools(TextWrapper):
    """Answers tool calls itself, and hands everything else to the environment.

    A turn that calls tools is worth 0, does not move the environment on, and counts as a turn. What the agent writes in
    the syntax's form of an answer reaches the environment as its action; any other text does as it is. A call of a tool
    that is `final` ends the episode, after its text, if it has one, was the environment's last action.

    The first observation ends with how to call the tools; `info["tool_calls"]` counts the calls that reached one.

    Args:
        env: The environment.
        tools: Tools, see `agent_gym.tools.base.as_tool`: objects, classes, typed functions, "calculator",
            "module:name", "file.py:name".
        syntax: How calls are written: "hermes", "arpo", "react", "fenced" or "openai".
        max_calls: Calls in one episode; None for no limit.
        timeout: Seconds that no call may exceed, see `Toolbox`.
        max_characters: Longest text of a result.
        recording: A file in which calls and results are kept, see `Recording`.
        mode: What is done with the recording: "auto", "record" or "replay".
        history: Whether tools with a state may be recorded, see `Recording`.

    Raises:
        ToolError: Something is no tool, or cannot be recorded.
        UnknownIdError: There is no such syntax.
    """

    def __init__(
        self,
        env: TextEnv,
        *,
        tools: Iterable[Tool | type[Tool] | Callable[..., Any] | str],
        syntax: str = "hermes",
        max_calls: int | None = None,
        timeout: float | None = None,
        max_characters: int = 8_000,
        recording: str | Path | None = None,
        mode: Literal["auto", "record", "replay"] = "auto",
        history: bool = False,
    ) -> None:
        super().__init__(env)
        self.syntax = get_syntax(syntax)
        self.toolbox = Toolbox(
            tools,
            max_calls=max_calls,
            timeout=timeout,
            max_characters=max_characters,
            recording=Recording.at(recording, mode=mode, history=history) if recording is not None else None,
        )
        self.blocking = env.blocking or self.toolbox.blocking
        self._tool_turns = 0
        self._last_info = Info({})
        self._over = True

    @property
    def turn(self) -> int:  # type: ignore[override]
        """Turns of the episode, those that called tools included."""
        return self.env.turn + self._tool_turns

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Begin an episode.

        Raises:
            ToolError: A tool cannot be set up.
        """
        self._over, self._tool_turns = True, 0
        observation, info = super().reset(seed=seed, options=options)
        self.toolbox.setup()
        self._over = False
        return f"{observation}\n\n{self.syntax.instructions(self.toolbox)}", self._counted(info)

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Call tools, or apply an action.

        Raises:
            EpisodeEnded: The episode is over, or `reset` was never called.
            WorkerError: A sandbox or a worker failed.
        """
        if self._over:
            raise EpisodeEnded("The episode has ended: call reset() before the next step().")
        parsed = self.syntax.parse(action, self.toolbox)
        if not parsed.calls:
            return self._pass_on(action if parsed.answer is None else parsed.answer)
        results = self._answered(parsed)
        if results[-1].final:
            return self._finish(results)
        self._tool_turns += 1
        self._over = self.turn >= self.max_turns
        observation = shown(self.syntax.show(results), _LONGEST)
        return observation, 0.0, False, self._over, self._told(results)

    def close(self) -> None:
        """Let go of what the tools use, and close the environment."""
        try:
            self.toolbox.close()
        finally:
            super().close()

    def _answered(self, parsed: Parsed) -> list[ToolResult]:
        """Make the calls in their order, up to one that ends the episode."""
        results: list[ToolResult] = []
        for call in parsed.calls:
            results.append(self.toolbox.call(call))
            if results[-1].final:
                break
        return results

    def _pass_on(self, action: str) -> tuple[str, float, bool, bool, Info]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        truncated = not terminated and (truncated or self.turn >= self.max_turns)
        self._over = terminated or truncated
        return observation, reward, terminated, truncated, self._counted(info)

    def _finish(self, results: list[ToolResult]) -> tuple[str, float, bool, bool, Info]:
        """End the episode with what the last call says."""
        last = results[-1].text
        if last:
            observation, reward, _, _, info = self._pass_on(last)
        else:
            self._tool_turns += 1
            observation, reward, info = "The episode is ended.", 0.0, self._told(results)
        self._over = True
        return observation, reward, True, False, info

    def _counted(self, info: Info) -> Info:
        """Return the environment's info with the turns and calls of the tools."""
        info["turn"], info["tool_calls"] = self.turn, self.toolbox.calls_made
        self._last_info = info
        return info

    def _told(self, results: list[ToolResult]) -> Info:
        """Return the info of a turn that called tools: all else is as it was after the environment's last turn."""
        last = self._last_info
        info = Info({}, {key: partial(last.__getitem__, key) for key in last})
        info["turn"], info["tool_calls"] = self.turn, self.toolbox.calls_made
        info["invalid_action"] = any(result.status in ("invalid", "unknown") for result in results)
        return info

    def _fork_memory(self, parent: Self) -> None:
        try:
            self.toolbox = parent.toolbox.fork()
        except Exception:
            self.env.close()
            raise
