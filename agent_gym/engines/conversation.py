"""An engine that is a function of the conversation: a script, or somebody else's client of a model."""

import inspect
from collections.abc import Awaitable, Callable, Sequence

from agent_gym.engines.base import Completion, Engine, Sampling, Session
from agent_gym.engines.messages import VOCABULARY, bytes_of, messages_in
from agent_gym.engines.scripted import END
from agent_gym.errors import EngineError

Conversation = list[dict[str, str]]
"""Messages with "role" and "content", the newest last."""


class ConversationEngine(Engine):
    """Answers with what a function makes of the conversation. Use it with a `MessageChat`.

    Args:
        function: Gets the messages so far and returns the answer; it may be a coroutine function, and then other
            episodes go on while it waits.
    """

    vocabulary = VOCABULARY
    ids_per_token = 4.0

    def __init__(self, function: Callable[[Conversation], str | Awaitable[str]]) -> None:
        self._function = function

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, session: Session | None = None
    ) -> Completion:
        """Return the function's answer; every token has probability one.

        Raises:
            EngineError: The answer is no text.
        """
        session = session or self.session()
        conversation: Conversation = session.state or []
        new = messages_in(prompt_ids, session.cached)
        conversation.extend({"role": message.role, "content": message.content} for message in new)
        session.state, session.cached = conversation, len(prompt_ids)
        answer = self._function([dict(message) for message in conversation])
        if inspect.isawaitable(answer):
            answer = await answer
        if not isinstance(answer, str):
            raise EngineError(f"The script returned {type(answer).__name__}: it must return the text of the answer.")
        token_ids = [*bytes_of(answer), END]
        zeros = [0.0] * len(token_ids)
        return Completion(token_ids, zeros, list(zeros), "stop", self.version)

    def fork_session(self, session: Session, length: int | None = None) -> Session:
        """Return a session that reads its conversation anew."""
        return Session(self)
