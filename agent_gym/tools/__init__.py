"""Tools that an agent can call: `@tool` on a typed function, or a class where there is a state for each episode."""

from agent_gym.tools.base import TOOLS, Tool, as_tool, register_tool, tool
from agent_gym.tools.calls import ToolCall, ToolResult
from agent_gym.tools.recording import Recording, record, replay
from agent_gym.tools.syntax import SYNTAXES, Parsed, ToolSyntax, detect_syntax, get_syntax
from agent_gym.tools.toolbox import Toolbox

__all__ = [
    "SYNTAXES",
    "TOOLS",
    "Parsed",
    "Recording",
    "Tool",
    "ToolCall",
    "ToolResult",
    "ToolSyntax",
    "Toolbox",
    "as_tool",
    "detect_syntax",
    "get_syntax",
    "record",
    "register_tool",
    "replay",
    "tool",
]
