"""From observations to tokens: the first prompt of an episode, and what is appended after each answer.

Tokens in, tokens out: what the model generated is never decoded and encoded again. The template is rendered once,
with place-holders, when the chat is made; after that a turn costs the encoding of its own observation.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

from agent_gym.engines.messages import ASSISTANT, SYSTEM, USER, bytes_of, said
from agent_gym.engines.scripted import END, ByteTokenizer
from agent_gym.errors import ChatTemplateError

_FIRST, _ANSWER, _SECOND = "OBSERVATIONONE", "ANSWERONE", "OBSERVATIONTWO"

_TAG = re.compile(r"</?(think|answer|tools|tool_call|tool_response)>")
"""Tags that are single tokens of Qwen and others and end no turn: an observation says how to write them, and must be
read as it is."""
_MARK = re.compile(r"\[/?[A-Z_]+\]")
"""What begins or ends a turn in templates that have no special tokens for it, as "[/INST]"."""


class Chat(Protocol):
    """Renders observations as token ids."""

    def begin(self, observation: str) -> Sequence[int]:
        """Return the ids of the first prompt: system prompt, first observation, and the opening of the answer."""

    def extend(self, observation: str, *, ended: bool) -> Sequence[int]:
        """Return the ids that follow an answer: its closing, the next observation, the opening of the next answer.

        Args:
            observation: What the environment said.
            ended: Whether the answer ended with its closing token, see `ended` (else the turn is closed here).
        """

    def answer(self, text: str) -> Sequence[int]:
        """Return the ids that a model would generate to say `text`, the end token included. For demonstrations."""

    def ended(self, token_ids: Sequence[int]) -> bool:
        """Return whether generated ids end with the token that closes an answer."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of generated ids, without special tokens."""


class TemplateChat:
    """A chat in the template of a Hugging Face tokenizer.

    Args:
        tokenizer: A tokenizer with a chat template.
        system_prompt: Put before the first observation; empty for none.

    Raises:
        ChatTemplateError: The tokenizer has no chat template, or the template does not show messages in their order
            and as they are, so that a conversation cannot be extended by appending.
    """

    def __init__(self, tokenizer: Any, *, system_prompt: str = "") -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ChatTemplateError(
                "The tokenizer has no chat template: set tokenizer.chat_template, or use an instruction-tuned model."
            )
        self.tokenizer = tokenizer
        messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
        messages += [
            {"role": "user", "content": _FIRST},
            {"role": "assistant", "content": _ANSWER},
            {"role": "user", "content": _SECOND},
        ]
        first = self._render(messages[:-2])
        both = self._render(messages)
        try:
            self._before_first, self._after_first = _cut(first, _FIRST)
            head, tail = _cut(both, _ANSWER)
            self._between, self._after_second = _cut(tail, _SECOND)
            # The opening of an answer may differ from what is shown of it later (by a "<think>", say), no more.
            if not (head.startswith(first) or first.startswith(head)):
                raise ValueError("the first messages are shown in another way once there are more")
        except ValueError as error:
            raise ChatTemplateError(
                "The chat template does not show messages in their order and as they are, so that a conversation "
                "cannot be extended by appending: use a plainer template."
            ) from error
        self._between_after_end = self._without_end_token(self._between)
        marks = _MARK.findall(self._after_first + self._between + self._after_second)
        self._special = _any_of([*getattr(tokenizer, "all_special_tokens", []), *_added_tokens(tokenizer), *marks])
        self._encode_cached = lru_cache(maxsize=4096)(self._encode)

    def begin(self, observation: str) -> Sequence[int]:
        """See `Chat.begin`."""
        return self._encode(self._before_first + self._defused(observation) + self._after_first)

    def extend(self, observation: str, *, ended: bool) -> Sequence[int]:
        """See `Chat.extend`."""
        between = self._between_after_end if ended else self._between
        return self._encode_cached(between + self._defused(observation) + self._after_second)

    def answer(self, text: str) -> Sequence[int]:
        """See `Chat.answer`."""
        return (*self._encode_cached(text), self.tokenizer.eos_token_id)

    def ended(self, token_ids: Sequence[int]) -> bool:
        """See `Chat.ended`."""
        return bool(token_ids) and token_ids[-1] == self.tokenizer.eos_token_id

    def decode(self, token_ids: Sequence[int]) -> str:
        """See `Chat.decode`."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True))

    def _render(self, messages: list[dict[str, str]]) -> str:
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except Exception as error:
            raise ChatTemplateError(
                f"The chat template cannot render a conversation ({error}): leave out the system prompt, or use "
                "another template."
            ) from error

    def _encode(self, text: str) -> tuple[int, ...]:
        safe = text.encode("utf-8", "replace").decode("utf-8")
        return tuple(self.tokenizer.encode(safe, add_special_tokens=False))

    def _defused(self, observation: str) -> str:
        """Break special tokens that an environment (or a page that it shows) writes: they must not end a turn."""
        return self._special.sub(lambda found: found[0][0] + " " + found[0][1:], observation)

    def _without_end_token(self, between: str) -> str:
        """Drop the end token that the template writes after an answer: the model has generated it already."""
        end = self.tokenizer.eos_token
        return between.removeprefix(end) if end else between


class ByteChat:
    """A chat without a model: the text itself as bytes, an end token after each side. For scripted engines."""

    def __init__(self, tokenizer: ByteTokenizer | None = None) -> None:
        self.tokenizer = tokenizer or ByteTokenizer()

    def begin(self, observation: str) -> Sequence[int]:
        """See `Chat.begin`."""
        return [*self.tokenizer.encode(observation), END]

    def extend(self, observation: str, *, ended: bool) -> Sequence[int]:
        """See `Chat.extend`."""
        return self.begin(observation) if ended else [END, *self.begin(observation)]

    def answer(self, text: str) -> Sequence[int]:
        """See `Chat.answer`."""
        return self.begin(text)

    def ended(self, token_ids: Sequence[int]) -> bool:
        """See `Chat.ended`."""
        return bool(token_ids) and token_ids[-1] == END

    def decode(self, token_ids: Sequence[int]) -> str:
        """See `Chat.decode`."""
        return self.tokenizer.decode(token_ids)


class MessageChat:
    """A chat for engines that take messages instead of tokens; see `agent_gym.engines.messages`.

    Args:
        system_prompt: Put before the first observation; empty for none.
    """

    def __init__(self, *, system_prompt: str = "") -> None:
        self._system = [SYSTEM, *bytes_of(system_prompt), END] if system_prompt else []

    def begin(self, observation: str) -> Sequence[int]:
        """See `Chat.begin`."""
        return [*self._system, USER, *bytes_of(observation), END, ASSISTANT]

    def extend(self, observation: str, *, ended: bool) -> Sequence[int]:
        """See `Chat.extend`."""
        message = [USER, *bytes_of(observation), END, ASSISTANT]
        return message if ended else [END, *message]

    def answer(self, text: str) -> Sequence[int]:
        """See `Chat.answer`."""
        return [*bytes_of(text), END]

    def ended(self, token_ids: Sequence[int]) -> bool:
        """See `Chat.ended`."""
        return bool(token_ids) and token_ids[-1] == END

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return what the answer says, without the thought before it."""
        return said(token_ids)


def _cut(text: str, marker: str) -> tuple[str, str]:
    before, found, after = text.partition(marker)
    if not found:
        raise ValueError(f"{marker} is not in the rendering")
    return before, after


def _any_of(words: list[str]) -> re.Pattern[str]:
    """Return a pattern that finds any of the words, the longest first; nothing where there are none."""
    ordered = sorted({word for word in words if word}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) if ordered else r"(?!)")


def _added_tokens(tokenizer: Any) -> list[str]:
    """Return the tokens that were added to the vocabulary as wholes; chat markers are among them, tags are not."""
    return [str(token) for token in getattr(tokenizer, "get_added_vocab", dict)() if not _TAG.fullmatch(str(token))]
