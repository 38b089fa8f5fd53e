"""Answers of a server as text."""

import base64

import pytest

pytest.importorskip("mcp_types", reason="needs the extra mcp")

import mcp_types as types

from agent_gym.tools.mcp.content import as_text


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1234])
def test_a_picture_is_its_kind_and_its_size(size: int) -> None:
    data = base64.b64encode(bytes(size)).decode()
    result = types.CallToolResult(content=[types.ImageContent(data=data, mime_type="image/png")])
    assert as_text(result) == f"[image/png, {size} bytes]"


def test_structured_content_is_shown_as_json_where_there_is_no_text() -> None:
    structure = {"größe": [1, None]}
    assert as_text(types.CallToolResult(content=[], structured_content=structure)) == '{"größe": [1, null]}'
    told = types.CallToolResult(content=[types.TextContent(text="one")], structured_content=structure)
    assert as_text(told) == "one"


def test_an_empty_answer_is_an_empty_text() -> None:
    assert as_text(types.CallToolResult(content=[])) == ""


def test_texts_stand_below_each_other() -> None:
    parts: list[types.ContentBlock] = [types.TextContent(text="one"), types.TextContent(text="two")]
    assert as_text(types.CallToolResult(content=parts)) == "one\ntwo"
