"""What holds for every syntax: what is written is read back, and no text raises or takes long."""

import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent_gym.errors import ToolError, UnknownIdError
from agent_gym.tools.calls import ToolCall, ToolResult
from agent_gym.tools.syntax import SYNTAXES, Parsed, ToolSyntax, detect_syntax, get_syntax
from agent_gym.tools.toolbox import Toolbox

every_syntax = pytest.mark.parametrize("syntax", [get_syntax(name) for name in SYNTAXES], ids=list(SYNTAXES))

PIECES = [
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<function=search>", "<parameter=query>", "</parameter>"),
    *("</function>", "<search>", "</search>", "<python>", "</python>", "<answer>", "</answer>", "\\boxed{", "}", "{"),
    *("\nThought:", "\nAction: search", "\nAction Input: ", "\nFinal Answer:", "\nObservation:", "\n```python\n"),
    *(
        "\n```json\n",
        "\n```\n",
        "```",
        "\n````\n",
        '{"name": "search", "arguments": {"query": "x"}}',
        '"',
        "\\",
        "[",
        "]",
    ),
    *(
        '[{"function": {"name": "search", "arguments": "{}"}}]',
        '"function"',
        "\n",
        " ",
        "x",
        "\x00",
        "\ud800",
        "ß",
        "5",
    ),
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(st.characters(codec=None), max_size=5), max_size=30).map("".join)
WORDS = st.text(st.characters(codec="utf-8"), max_size=30) | st.lists(st.sampled_from(PIECES[:-3]), max_size=5).map(
    "".join
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
CALLS = st.one_of(
    st.builds(lambda query: ToolCall("search", {"query": query}), WORDS),
    st.builds(lambda query, limit: ToolCall("search", {"query": query, "limit": limit}), WORDS, st.integers()),
    st.builds(lambda code: ToolCall("python", {"code": code}), WORDS),
    st.builds(lambda number: ToolCall("count", {"number": number}), st.integers()),
    st.builds(
        lambda city, nights, extras: ToolCall("book", {"city": city, "nights": nights, "extras": extras}),
        WORDS,
        st.integers(),
        st.none() | st.lists(WORDS, max_size=3),
    ),
    st.builds(lambda value: ToolCall("book", {"city": value, "nights": value}), JSON),
    st.just(ToolCall("done", {})),
)


@every_syntax
@settings(deadline=None)
@given(call=CALLS)
@example(call=ToolCall("python", {"code": "print('</think>', '</python>', '<python>')\n```\n"}))
@example(call=ToolCall("search", {"query": '{"query": "x"}'}))
@example(call=ToolCall("search", {"query": ""}))
@example(call=ToolCall("python", {"code": "\n  if x:\n    y\n"}))
def test_what_is_written_is_read_back(syntax: ToolSyntax, call: ToolCall, tools: Toolbox) -> None:
    assert syntax.parse(syntax.write(call), tools) == Parsed([call])


@every_syntax
@settings(deadline=None)
@given(call=CALLS, words=st.text("abc .", max_size=20))
def test_a_call_is_read_behind_a_thought_and_not_inside_one(
    syntax: ToolSyntax, call: ToolCall, words: str, tools: Toolbox
) -> None:
    written = syntax.write(call)
    for thought in (
        f"<think>{words}</think>\n",
        f"<think>\n{words}\n{SIMPLE[syntax.name]}\n</think>\n",
        f"{words}</think>\n",
    ):
        assert syntax.parse(thought + written, tools).calls == [call]
    assert syntax.parse(f"<think>{words}\n{SIMPLE[syntax.name]}", tools).calls == []


SIMPLE = {name: get_syntax(name).write(ToolCall("search", {"query": "x"})) for name in SYNTAXES}


@every_syntax
@settings(deadline=None, max_examples=300)
@given(text=TEXTS)
def test_no_text_raises(syntax: ToolSyntax, text: str, tools: Toolbox) -> None:
    check_readable(syntax.parse(text, tools), tools)


@every_syntax
@settings(deadline=None, max_examples=200)
@given(call=CALLS, cuts=st.lists(st.integers(0, 200), min_size=1, max_size=3), extra=st.sampled_from(PIECES))
def test_no_change_of_a_right_call_raises(
    syntax: ToolSyntax, call: ToolCall, cuts: list[int], extra: str, tools: Toolbox
) -> None:
    text = syntax.write(call)
    for cut in cuts:
        text = text[: cut % (len(text) + 1)] + extra + text[cut % (len(text) + 1) + len(extra) % 2 :]
    check_readable(syntax.parse(text, tools), tools)


def check_readable(parsed: Parsed, tools: Toolbox) -> None:
    for call in parsed.calls:
        result = tools.call(call)
        result.text.encode("utf-8")
        assert not call.problem or (result.status == "invalid" and len(result.text) < 600)


@every_syntax
@pytest.mark.parametrize(
    "piece", [*PIECES, "<search></think>", "<tool_call>[", "[{", '{"a":', "<think>x</think>", "` "]
)
def test_a_long_text_of_any_piece_is_read_in_bounded_time(syntax: ToolSyntax, piece: str, tools: Toolbox) -> None:
    text = SIMPLE[syntax.name] + "\n" + piece * (200_000 // len(piece))
    started = time.process_time()
    check_readable(syntax.parse(text, tools), tools)
    # It takes a hundredth of this; a pattern that backtracks, or reads a part again and again, takes minutes.
    assert time.process_time() - started < 5


@every_syntax
def test_deep_nesting_is_a_problem_and_no_crash(syntax: ToolSyntax, tools: Toolbox) -> None:
    deep = "[" * 100_000
    for text in (deep, f'<tool_call>{{"name": "search", "arguments": {deep}', f"<search>{deep}</search>"):
        check_readable(syntax.parse(text, tools), tools)


@every_syntax
def test_every_syntax_shows_the_results_and_names_every_tool(syntax: ToolSyntax, tools: Toolbox) -> None:
    shown = syntax.show([ToolResult("search", "Rome is in Italy.", id="1")])
    assert "Rome is in Italy." in shown
    told = syntax.instructions(tools)
    assert all(name in told for name in tools.names) and "Search the encyclopedia." in told


@every_syntax
def test_a_problem_shows_the_right_form_which_can_be_read(syntax: ToolSyntax, tools: Toolbox) -> None:
    for name in ("", *tools.names):
        call = syntax.problem("No.", tools, name)
        form = call.problem.removeprefix("No. Write it like this: ")
        assert not any(each.problem for each in syntax.parse(form, tools).calls)
        assert tools.call(syntax.parse(form, tools).calls[0]).ok


@every_syntax
def test_no_tools_are_no_error(syntax: ToolSyntax) -> None:
    for text in PIECES:
        syntax.parse(text, Toolbox([]))
    syntax.instructions(Toolbox([]))


def test_an_unknown_syntax_is_named() -> None:
    with pytest.raises(UnknownIdError, match="Unknown tool syntax 'herms': did you mean 'hermes'"):
        get_syntax("herms")


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{%- for t in m.tool_calls %}<tool_call>\n{{ t }}\n</tool_call>{% endfor %}", "hermes"),
        ("<tool_call>\n<function={{ name }}>\n<parameter=", "hermes"),
        ("Thought: ...\nAction Input: {{ x }}", "react"),
        ("<search>..</search> <result>", "arpo"),
    ],
)
def test_the_syntax_is_found_in_a_chat_template(template: str, name: Any) -> None:
    assert detect_syntax(template) == name


@pytest.mark.parametrize("template", ["{{ messages }}", "<tool_call>{name}\n<arg_key>x</arg_key>"])
def test_a_template_without_a_known_syntax_says_so(template: str) -> None:
    with pytest.raises(ToolError, match="choose one of arpo, fenced, hermes, openai, react"):
        detect_syntax(template)
