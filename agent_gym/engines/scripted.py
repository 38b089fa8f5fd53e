"""An engine that answers from a list or a function: for tests, for replaying, for measuring the loop.

It goes through the same public path as a model. Its vocabulary is bytes.
"""

from collections.abc import Callable, Iterable, Sequence

from agent_gym.engines.base import Completion, Engine, Sampling, Session

END = 256
"""The token that ends an answer; the ids below it are the bytes of UTF-8."""


class ByteTokenizer:
    """Text as UTF-8 bytes, plus one token that ends a turn."""

    eos_token_id = END
    vocabulary_size = END + 1

    def encode(self, text: str) -> list[int]:
        """Return the bytes of `text`; a lone surrogate becomes a question mark."""
        return list(text.encode("utf-8", "replace"))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of the bytes; the end token has none."""
        return bytes([token for token in token_ids if token < END]).decode("utf-8", "replace")


class ScriptedEngine(Engine):
    """Answers each session from a list of texts (from its start), or by a function of what is new in the prompt.

    Args:
        answers: Texts, answered in turn within each session (the last one is repeated), or a function that gets the
            text which was appended since the last answer and returns the next one.
        tokenizer: Defaults to bytes; must be the one that the chat uses.
    """

    def __init__(self, answers: Iterable[str] | Callable[[str], str], tokenizer: ByteTokenizer | None = None) -> None:
        self.tokenizer = tokenizer or ByteTokenizer()
        self.vocabulary = self.tokenizer.vocabulary_size
        self._function = answers if callable(answers) else None
        self._answers = [] if callable(answers) else list(answers)
        if self._function is None and not self._answers:
            raise ValueError("A scripted engine needs at least one answer.")

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, session: Session | None = None
    ) -> Completion:
        """Return the next scripted answer; every token has probability one."""
        seen = session.cached if session else 0
        ends = _ends(session) if session else []
        if self._function is not None:
            answer = self._function(self.tokenizer.decode(prompt_ids[seen:]))
        else:
            answer = self._answers[min(len(ends), len(self._answers) - 1)]
        token_ids = [*self.tokenizer.encode(answer), END]
        finish_reason = "stop"
        if len(token_ids) > sampling.max_tokens:
            token_ids, finish_reason = token_ids[: sampling.max_tokens], "length"
        if session is not None:
            session.cached = len(prompt_ids) + len(token_ids)
            ends.append(session.cached)
        zeros = [0.0] * len(token_ids)
        return Completion(token_ids, zeros, list(zeros), finish_reason, self.version)

    def fork_session(self, session: Session, length: int | None = None) -> Session:
        """Copy a session; answers that end after the first `length` tokens have not been given in it."""
        ends = [end for end in _ends(session) if length is None or end <= length]
        return Session(self, ends[-1] if ends else 0, ends)


def _ends(session: Session) -> list[int]:
    """Where each answer of a session ended, in tokens; what is appended is kept."""
    if session.state is None:
        session.state = []
    ends: list[int] = session.state
    return ends
