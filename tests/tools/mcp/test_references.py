"""A server by reference: what a configuration can name."""

import shlex

import pytest

pytest.importorskip("mcp_types", reason="needs the extra mcp")

from agent_gym.tools.calls import ToolCall
from agent_gym.tools.toolbox import Toolbox


def test_the_tools_of_a_server_stand_beside_others(raw: list[str]) -> None:
    alone = Toolbox([f"mcp:{shlex.join(raw)}"])
    both = Toolbox(["calculator", f"mcp:{shlex.join(raw)}"])
    assert alone.names and both.names == ("calculator", *alone.names)
    with both:
        assert both.call(ToolCall("calculator", {"expression": "6*7"})).text == "42"
