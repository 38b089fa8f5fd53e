"""A tool call and its result: what passes between an agent's text and the tools.

Knows nothing of how calls are written, or of how tools run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ToolStatus = Literal["ok", "invalid", "unknown", "error", "timeout", "budget"]
"""How a call ended.

- "ok": the tool gave a result;
- "invalid": the call could not be read, or its arguments do not fit; the tool was not run;
- "unknown": there is no tool of that name;
- "error": the tool failed;
- "timeout": the tool did not answer in time;
- "budget": no calls are left; the tool was not run.
"""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """What an agent asks of a tool."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    """As the model or the server gave it."""
    problem: str = ""
    """Why it could not be read: a sentence for the model. Such a call is answered by it and runs nothing."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What became of a call."""

    name: str
    text: str
    """What the model reads."""
    status: ToolStatus = "ok"
    seconds: float = 0.0
    """Wall time that the tool took."""
    final: bool = False
    """The call ends the episode."""
    id: str = ""
    """Of the call."""

    @property
    def ok(self) -> bool:
        """Whether the tool ran and gave a result."""
        return self.status == "ok"
