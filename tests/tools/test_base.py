"""Tools of functions and classes: what is read from them, forks, references, and what is refused."""

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agent_gym.errors import ToolError
from agent_gym.tools.base import FunctionTool, Tool, as_tool, tool
from agent_gym.tools.calls import ToolCall
from agent_gym.tools.toolbox import Toolbox


@tool
def search(query: str, limit: int = 5) -> list[str]:
    """Search the encyclopedia.

    Finds articles.

    Args:
        query: What to look for.
        limit: How many.
    """
    return [query] * limit


class PageReader(Tool):
    """Reads pages, one after the other."""

    shared: ClassVar[tuple[str, ...]] = ("pages",)

    def __init__(self, pages: tuple[str, ...] = ("one", "two")) -> None:
        self.pages = list(pages)

    def setup(self) -> None:
        self.seen: list[str] = []

    def run(self) -> str:
        self.seen.append(self.pages[len(self.seen)])
        return self.seen[-1]


class Doubler(Tool):
    def run(self, count: int) -> int:
        return 2 * count


class Served(Tool):
    """Its parameters are known only at run time."""

    def __init__(self, schema: dict[str, Any] | None = None) -> None:
        if schema:
            self.parameters = schema

    def run(self, **arguments: Any) -> Any:
        return arguments


def test_a_function_stays_a_function() -> None:
    assert search("a", limit=2) == ["a", "a"]
    assert search.__name__ == "search" and (search.__doc__ or "").startswith("Search")


def test_name_description_and_schema_come_from_signature_and_docstring() -> None:
    assert search.name == "search"
    assert search.description == "Search the encyclopedia.\n\nFinds articles."
    assert search.parameters == {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "What to look for."},
            "limit": {"type": "integer", "description": "How many.", "default": 5},
        },
        "required": ["query"],
        "additionalProperties": False,
    }


def test_options_of_the_decorator_are_set_and_unknown_ones_refused() -> None:
    @tool(name="look-up", description="Looks.", timeout=1, max_calls=2, blocking=True, final=True)
    def find(word: str) -> str:
        return word

    assert (find.name, find.description, find.timeout, find.max_calls) == ("look-up", "Looks.", 1, 2)
    assert find.blocking and find.final and find("x") == "x"
    with pytest.raises(ToolError, match="Unknown option 'time_out' of @tool"):
        tool(time_out=3)(find.function)


def test_a_class_gets_its_name_and_description_and_knows_that_it_has_state() -> None:
    assert (PageReader.name, PageReader.description) == ("page_reader", "Reads pages, one after the other.")
    assert PageReader().stateful and not Served().stateful and not search.stateful


def test_a_subclass_has_a_name_of_its_own_unless_one_was_given() -> None:
    class FastReader(PageReader): ...

    class Named(PageReader):
        name = "reader"
        description = "Reads."

    class Heir(Named):
        """Reads otherwise."""

    assert (FastReader.name, FastReader.description) == ("fast_reader", "Reads pages, one after the other.")
    assert (Heir.name, Heir.description) == ("reader", "Reads.")
    assert FastReader().stateful


def test_a_fork_copies_the_state_and_shares_what_it_may() -> None:
    reader = PageReader()
    reader.setup()
    assert reader.run() == "one"
    twin = reader.fork()
    assert twin.run() == "two" and reader.seen == ["one"]
    assert twin.pages is reader.pages
    assert search.fork() is search


def test_a_tool_that_cannot_be_copied_says_what_to_do() -> None:
    class Locked(Tool):
        def setup(self) -> None:
            self.lock = threading.Lock()

        def run(self) -> str:
            return ""

    locked = Locked()
    locked.setup()
    with pytest.raises(ToolError, match=r"'locked' cannot be forked: .*lock.*name what forks may share in `shared`"):
        locked.fork()


def test_tools_can_be_sent_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(search)) is search
    plain = pickle.loads(pickle.dumps(FunctionTool(undecorated, max_calls=3)))
    assert plain("x") == "x" and plain.max_calls == 3
    reader = PageReader(("a", "b"))
    assert reader.parameters["properties"] == {}
    assert Toolbox([pickle.loads(pickle.dumps(reader))]).call(ToolCall("page_reader")).text == "a"
    assert copy.deepcopy(search) is search


def undecorated(word: str) -> str:
    return word


def test_a_schema_that_is_given_is_used_and_the_types_left_to_the_tool() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    box = Toolbox([Served(schema)])
    assert box.schemas()[0]["function"]["parameters"] == schema
    assert box.call(ToolCall("served", {"city": 3})).text == '{"city":3}'
    told = box.call(ToolCall("served", {"town": 3})).text
    assert told.startswith("served was not called: city: this argument is missing; unknown argument 'town'")


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda tool: pickle.loads(pickle.dumps(tool)), lambda tool: tool.fork()],
    ids=["copy", "deepcopy", "pickle", "fork"],
)
def test_a_copy_checks_its_arguments_as_the_original_does(copied: Callable[[Tool], Tool]) -> None:
    given: Tool = Doubler()
    assert given.parameters["required"] == ["count"]
    twin = copied(given)
    assert twin.arguments.check({"count": "3"}) == {"count": 3}
    assert Toolbox([twin]).call(ToolCall("doubler", {"count": "three"})).status == "invalid"
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    served = copied(as_tool(Served(schema)))
    assert served.parameters == schema and served.arguments.check({"city": 3}) == {"city": 3}


def test_a_schema_of_a_class_holds_for_its_subclasses() -> None:
    class Weather(Served):
        parameters = {"type": "object", "properties": {"city": {"type": "string"}}}  # noqa: RUF012

    class Forecast(Weather): ...

    told = Toolbox([Forecast]).call(ToolCall("forecast", {"town": 1}))
    assert told.text.startswith("forecast was not called: unknown argument 'town'")


def test_a_tool_without_a_schema_for_its_arguments_is_refused() -> None:
    with pytest.raises(ToolError, match="an attribute `parameters` with a JSON schema for its"):
        Toolbox([Served])


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (search, "search"),
        (PageReader, "page_reader"),
        (PageReader(), "page_reader"),
        (undecorated, "undecorated"),
        ("calculator", "calculator"),
        ("agent_gym.tools.calculator:calculator", "calculator"),
    ],
    ids=["tool", "class", "instance", "function", "name", "place"],
)
def test_a_tool_is_made_of_whatever_stands_for_one(given: Any, name: str) -> None:
    assert as_tool(given).name == name


def test_a_tool_is_found_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "my_tools.py"
    file.write_text("def shout(text: str) -> str:\n    return text.upper()\n")
    assert Toolbox([f"{file}:shout"]).call(ToolCall("shout", {"text": "hey"})).text == "HEY"


def test_a_list_of_tools_is_found_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "more_tools.py"
    file.write_text("def shout(text: str) -> str:\n    return text.upper()\n\n\nTOOLS = ['calculator', shout]\n")
    assert Toolbox([f"{file}:TOOLS"]).names == ("calculator", "shout")


def test_a_method_is_refused_with_what_to_write_instead() -> None:
    def sell(self, item: str) -> str:  # type: ignore[no-untyped-def]
        return item

    with pytest.raises(ToolError, match=r"'sell' is a method of a class.*derive the class from agent_gym\.Tool"):
        tool(sell)


@pytest.mark.parametrize("given", ["calculator", search, None])
def test_one_tool_in_place_of_a_list_is_refused(given: Any) -> None:
    with pytest.raises(ToolError, match=r"Tools are given as a list: write \["):
        Toolbox(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("calculatr", "Unknown tool 'calculatr': did you mean 'calculator'"),
        ("agent_gym.nowhere:it", "'agent_gym.nowhere:it' cannot be imported: No module named .*; give module:name"),
        ("agent_gym.tools.base:nothing", "cannot be imported: .*no attribute 'nothing'"),
        (3, "3 is no tool: give a Tool, a typed function, or module:name of one"),
        (dict, "is no tool"),
        (lambda x: x, "The parameter 'x' of the tool '<lambda>' has no type: write x: str"),
    ],
)
def test_what_is_no_tool_is_refused_with_the_remedy(given: Any, message: str) -> None:
    with pytest.raises(ToolError, match=message):
        as_tool(given)


def test_a_class_that_needs_arguments_is_refused() -> None:
    class Needy(Tool):
        def __init__(self, key: str) -> None:
            self.key = key

        def run(self) -> str:
            return self.key

    with pytest.raises(ToolError, match=r"The tool Needy cannot be made without arguments: .*'key'"):
        as_tool(Needy)


def _name(name: str) -> Callable[..., Any]:
    def function() -> None: ...

    function.__name__ = name
    return function


@pytest.mark.parametrize("name", ["", "two words", "x" * 65, "<tag>"])
def test_a_name_that_a_model_could_not_write_is_refused(name: str) -> None:
    with pytest.raises(ToolError, match="must be 1 to 64 letters, digits, _ or -"):
        as_tool(_name(name))
