"""How tool calls are written in text: one syntax a file, chosen by name."""

import importlib

from agent_gym.errors import ToolError, UnknownIdError
from agent_gym.tools.syntax.base import Parsed, ToolSyntax

__all__ = ["SYNTAXES", "Parsed", "ToolSyntax", "detect_syntax", "get_syntax"]

SYNTAXES = {
    "arpo": "arpo:ArpoSyntax",
    "fenced": "fenced:FencedSyntax",
    "hermes": "hermes:HermesSyntax",
    "openai": "openai:OpenAISyntax",
    "react": "react:ReactSyntax",
}
"""Syntaxes by name, with the module and class in this package."""

_SIGNS = {"<tool_call>": "hermes", "Action Input:": "react", "<result>": "arpo"}
"""What stands in the chat template of a model that was trained on a syntax, the surest sign first."""
_OTHERS = ("<arg_key>",)
"""What stands in templates that use the same tags for another syntax (GLM)."""


def get_syntax(name: str) -> ToolSyntax:
    """Return the syntax of that name.

    Raises:
        UnknownIdError: There is none; the message names the known ones.
    """
    if name not in SYNTAXES:
        raise UnknownIdError.of("tool syntax", name, SYNTAXES)
    module, _, cls = SYNTAXES[name].partition(":")
    syntax: ToolSyntax = getattr(importlib.import_module(f"{__name__}.{module}"), cls)()
    return syntax


def detect_syntax(chat_template: str) -> str:
    """Return the name of the syntax that the model of a chat template was trained on.

    Args:
        chat_template: The template of its tokenizer.

    Raises:
        ToolError: The template shows none of those known here.
    """
    for sign, name in _SIGNS.items():
        if sign in chat_template and not any(other in chat_template for other in _OTHERS):
            return name
    raise ToolError(
        f"The chat template shows no way of calling tools that is known here: choose one of {', '.join(SYNTAXES)}."
    )
