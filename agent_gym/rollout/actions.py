"""From generated text to the action that the environment gets."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from agent_gym.errors import UnknownIdError


@dataclass(frozen=True, slots=True)
class Action:
    """A parsed generation."""

    text: str
    """What the environment gets; empty where nothing could be parsed."""
    malformed: bool = False
    """The generation did not follow the syntax; the environment still gets `text`."""


ActionParser = Callable[[str], Action]

_TAGGED = re.compile(r"<action>(.*?)(?:</action>|\Z)", re.DOTALL)


def plain(generated: str) -> Action:
    """The whole generation is the action, white space at its ends apart."""
    text = generated.strip()
    return Action(text, malformed=not text)


def tagged(generated: str) -> Action:
    """The action stands in `<action>...</action>`; the last such block counts, and what is around it is thought.

    A block that was cut off before its end tag is taken as far as it goes, and counts as malformed.
    """
    blocks = _TAGGED.findall(generated)
    closed = generated.count("</action>") >= 1
    text = blocks[-1].strip() if blocks else ""
    return Action(text, malformed=not (text and closed))


@dataclass(frozen=True, slots=True)
class Syntax:
    """How actions are written: both ways between generated text and action."""

    parse: ActionParser
    write: Callable[[str], str]
    """Returns the text that an expert would generate for an action."""


SYNTAXES = {
    "plain": Syntax(plain, str),
    "tagged": Syntax(tagged, "<action>{}</action>".format),
}


def syntax(name: str) -> Syntax:
    """Return the syntax of that name.

    Raises:
        UnknownIdError: There is none; the message names the known ones.
    """
    if name not in SYNTAXES:
        raise UnknownIdError.of("action syntax", name, SYNTAXES)
    return SYNTAXES[name]
