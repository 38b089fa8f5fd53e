"""From the messages of a chat to the turns of an episode."""

import json
from typing import Any, Final

from agent_gym.rollout.chat import ByteChat
from agent_gym.trajectory import Trajectory, Turn

KEPT: Final = ("action", "reward", "invalid_action", "tool_calls", "engine_version", "engine_seconds", "env_seconds")
"""What an answer's metadata says of its turn in chats of ours."""
_READ: Final = {
    **{name: name for name in KEPT},
    "finish_reason": "finish_reason",
    "input_tokens": "prompt_tokens",
    "output_tokens": "generated_tokens",
}
_ATTACHMENT: Final = "attachment://"
_CHAT: Final = ByteChat()


def retold(messages: list[dict[str, Any]], attachments: dict[str, str]) -> tuple[list[Turn], str]:
    """Return the turns of a chat, and what was said after the last of them.

    Everything since the answer before is an answer's observation: what the user, the system and tools said. An answer
    that calls tools is told with its calls. The turns do not point at tokens yet, see `told`.

    Args:
        messages: With a role and a content, OpenAI's or inspect_ai's.
        attachments: The texts that stand for `attachment://NAME`.
    """
    turns: list[Turn] = []
    heard: list[str] = []
    for message in messages:
        text = _text(message.get("content"), attachments)
        if message.get("role") != "assistant":
            heard.append(f"[{message['function']}] {text}" if message.get("function") else text)
            continue
        calls = [_call(call) for call in message.get("tool_calls") or [] if isinstance(call, dict)]
        said = "\n".join(filter(None, [text, *calls]))
        turn = Turn("\n".join(heard), said, calls[0] if calls else text, 0, 0, tool_calls=len(calls))
        given = message.get("metadata")
        about = given if isinstance(given, dict) else {}
        for name, field in _READ.items():
            value, kind = about.get(name), type(getattr(turn, field))
            if isinstance(value, (int, float) if kind is float else kind):
                setattr(turn, field, kind(value))
        turns.append(turn)
        heard = []
    return turns, "\n".join(heard)


def told(trajectory: Trajectory) -> None:
    """Give an episode that has only texts the tokens of a chat in bytes, and its turns their places in them."""
    for number, turn in enumerate(trajectory.turns):
        begin = _CHAT.begin(turn.observation) if number == 0 else _CHAT.extend(turn.observation, ended=True)
        trajectory.append_context(begin)
        answer = _CHAT.answer(turn.text)
        zeros = [0.0] * len(answer)
        turn.start, turn.context_start = len(trajectory.token_ids), 0
        trajectory.append_action(answer, zeros, zeros)
        turn.end = len(trajectory.token_ids)


def _text(content: Any, attachments: dict[str, str]) -> str:
    """Return a message's content as text; what is none (a picture, say) is named."""
    if isinstance(content, str):
        if content.startswith(_ATTACHMENT):
            return attachments.get(content.removeprefix(_ATTACHMENT), content)
        return content
    parts = [part for part in content or [] if isinstance(part, dict)] if isinstance(content, list) else []
    return "\n".join(_part(part, attachments) for part in parts)


def _part(part: dict[str, Any], attachments: dict[str, str]) -> str:
    kind = part.get("type")
    if kind == "text":
        return _text(part.get("text"), attachments)
    if kind == "reasoning":
        return f"<think>{_text(part.get('reasoning'), attachments)}</think>"
    return f"[{kind}]"


def _call(call: dict[str, Any]) -> str:
    """Return a call of a tool as text; OpenAI's stands under "function", inspect_ai's beside it."""
    inner = call.get("function")
    name, arguments = (
        (inner.get("name"), inner.get("arguments")) if isinstance(inner, dict) else (inner, call.get("arguments"))
    )
    shown = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f"{name}({shown})"
