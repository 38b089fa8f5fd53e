"""What a tool server answers, as text for a model."""

import json

import mcp_types as types

ENGINE_FAILURE = "agent_gym.engine_failure"
"""What our server sends with the error of a call where it was not the tool that failed."""


def as_text(result: types.CallToolResult) -> str:
    """Return an answer as text; of what is no text, the kind and the size are named.

    A server that gives structured content says the same in text, for clients like this one; it is shown as JSON where
    there is no text.
    """
    parts = [_part(part) for part in result.content]
    if result.structured_content is not None and not any(
        isinstance(part, types.TextContent) for part in result.content
    ):
        parts.append(json.dumps(result.structured_content, ensure_ascii=False))
    return "\n".join(parts)


def _part(part: types.ContentBlock) -> str:
    match part:
        case types.TextContent():
            return part.text
        case types.ImageContent() | types.AudioContent():
            return f"[{part.mime_type}, {_size(part.data)} bytes]"
        case types.ResourceLink():
            about = [part.uri, *(word for word in (part.mime_type, part.description) if word)]
            return f"[{part.name}: {', '.join(about)}]"
        case types.EmbeddedResource():
            held = part.resource
            if isinstance(held, types.TextResourceContents):
                return held.text
            return f"[{held.uri}: {held.mime_type or 'binary'}, {_size(held.blob)} bytes]"


def _size(base64: str) -> int:
    """Return how many bytes a base64 text stands for."""
    return len(base64) * 3 // 4 - base64[-2:].count("=")
