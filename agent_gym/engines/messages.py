"""Conversations as token ids without a tokenizer: text as its UTF-8 bytes, messages between marks.

A mark is no byte, so that no text can forge one, and the messages can be read back exactly as they were: servers that
take messages, and functions of a conversation, are engines like any other.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent_gym.engines.scripted import END
from agent_gym.errors import EngineError

SYSTEM, USER, ASSISTANT = 257, 258, 259
"""Begin a message; END ends it."""
SPOKEN = 260
"""Ends a thought that came before what was said, within an answer."""
VOCABULARY = 261
MARKS = {END: "end", SYSTEM: "system", USER: "user", ASSISTANT: "assistant", SPOKEN: "end of thought"}
"""How the marks are shown."""

_ROLES = {SYSTEM: "system", USER: "user", ASSISTANT: "assistant"}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: str
    """ "system", "user" or "assistant"."""
    content: str

    def to_json(self) -> bytes:
        """Return it as servers want it."""
        return json.dumps({"role": self.role, "content": self.content}, ensure_ascii=False).encode()


def bytes_of(text: str) -> bytes:
    """Return the ids of a text; a lone surrogate becomes a question mark."""
    return text.encode("utf-8", "replace")


def said(token_ids: Sequence[int]) -> str:
    """Return what an answer says, without the thought before it."""
    end = len(token_ids)
    if end and token_ids[-1] == END:
        end -= 1
    return _text(token_ids, _after_thought(token_ids), end)


def thought(token_ids: Sequence[int]) -> str:
    """Return the thought that came before an answer, "" where there is none."""
    return _text(token_ids, 0, max(0, _after_thought(token_ids) - 1))


def messages_in(token_ids: Sequence[int], start: int = 0) -> Iterator[Message]:
    """Read the messages of a prompt, which ends where an answer begins.

    Thoughts are left out: servers do not want them back.

    Args:
        token_ids: The prompt.
        start: Where to begin: at the mark of a message, or within an answer that followed an earlier prompt.

    Raises:
        EngineError: These are no ids of a `MessageChat`.
    """
    position, role = start, "assistant"
    if position < len(token_ids) and token_ids[position] in _ROLES:
        role, position = _ROLES[token_ids[position]], position + 1
    while position < len(token_ids):
        end = _find(token_ids, END, position)
        if end < 0:
            raise _foreign()
        content = token_ids[position:end]
        yield Message(role, said(content) if role == "assistant" else _text(content, 0, len(content)))
        position = end + 1
        if position >= len(token_ids) or token_ids[position] not in _ROLES:
            raise _foreign()
        role, position = _ROLES[token_ids[position]], position + 1
    if role != "assistant":
        raise _foreign()


def _after_thought(token_ids: Sequence[int]) -> int:
    return _find(token_ids, SPOKEN, 0) + 1


def _find(token_ids: Sequence[int], mark: int, start: int) -> int:
    try:
        return token_ids.index(mark, start)
    except ValueError:
        return -1


def _text(token_ids: Sequence[int], start: int, end: int) -> str:
    part = token_ids[start:end]
    try:
        return bytes(part).decode("utf-8", "replace")
    except ValueError:
        return bytes(each for each in part if 0 <= each < END).decode("utf-8", "replace")


def _foreign() -> EngineError:
    return EngineError("The prompt holds no messages: this engine needs a MessageChat.")
