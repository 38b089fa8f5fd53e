"""What a tool is: a typed function, or a class with a state for each episode.

Knows nothing of how calls are written in text, of budgets or of time-outs.
"""

import copy
import inspect
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property, update_wrapper
from typing import Any, ClassVar, Generic, ParamSpec, Self, TypeVar, overload

from agent_gym.errors import MissingExtraError, SandboxUnavailable, ToolError, UnknownIdError, WorkerError
from agent_gym.importing import load_object
from agent_gym.registry import load_plugins
from agent_gym.tools.schema import Arguments, LooseArguments, read_docstring, text_parameter

P = ParamSpec("P")
R = TypeVar("R")

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

TOOLS = {
    "answer": "agent_gym.tools.finish:answer",
    "bash": "agent_gym.tools.python:BashTool",
    "browse": "agent_gym.tools.browse:BrowseTool",
    "calculator": "agent_gym.tools.calculator:calculator",
    "finish": "agent_gym.tools.finish:finish",
    "python": "agent_gym.tools.python:PythonTool",
    "search": "agent_gym.tools.search:SearchTool",
}
"""Tools by name, for `as_tool`."""


class NotRecordedError(ToolError):
    """A recording that is replayed lacks a call."""


ENGINE_FAILURES = (WorkerError, SandboxUnavailable, MissingExtraError, NotRecordedError)
"""Errors that say nothing about the call and so are never shown to a model: they end the episode as failed."""


class Tool(ABC):
    """Something that an agent can call.

    A subclass writes `run`, with a type for each parameter and a docstring in Google style; name, description and JSON
    schema come from there. What belongs to one episode is made anew in `setup`.

    A tool whose parameters are known only at run time sets `parameters` (a JSON schema) and writes
    `run(self, **arguments)`; the types of its arguments are then its own business.
    """

    name: str = ""
    """What the model calls it; the class's name in small letters, without "Tool", by default."""
    description: str = ""
    """What the model reads; the docstring of `run`, or else of the class, up to the first section by default."""
    timeout: float | None = 30.0
    """Seconds that a call may take; None where the tool looks after that itself. See `Toolbox.call`."""
    max_calls: int | None = None
    """Calls in one episode; None for no limit."""
    blocking: bool = False
    """Whether a call waits for another process or the network; rollouts then take it in a thread."""
    final: bool = False
    """Whether a call that succeeds ends the episode."""
    stateful: bool = False
    """Whether an answer may depend on the calls before; true by default where a class has its own `setup`."""
    shared: ClassVar[tuple[str, ...]] = ()
    """Attributes that a fork has in common with its parent: an index, a client, whatever no call changes."""
    _given: ClassVar[frozenset[str]] = frozenset()
    """What a class or one of its bases says itself, and its name and docstrings do not."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._given |= cls.__dict__.keys() & {"name", "description"}
        if "name" not in cls._given:
            words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__.removesuffix("Tool"))
            cls.name = words.lower()
        if "description" not in cls._given:
            told = read_docstring(cls.run.__doc__).description or read_docstring(cls.__doc__).description
            cls.description = told or cls.description
        if "setup" in cls.__dict__ and "stateful" not in cls.__dict__:
            cls.stateful = True

    def setup(self) -> None:  # noqa: B027 - most tools have nothing to begin
        """Begin an episode: make its state anew; what was left of the episode before is given up here."""

    @abstractmethod
    def run(self, *args: Any, **arguments: Any) -> Any:
        """Answer a call; may be `async`. Its arguments are given by name.

        Returns:
            A text, or anything that can be shown as JSON, or a `ToolResult` where the status is to be something else
            than "ok".

        Raises:
            ToolError: It cannot be done; the model reads the sentence.
            Exception: The model reads the kind of error and its message. `ENGINE_FAILURES` alone are passed on.
        """

    def fork(self) -> Self:
        """Return an independent tool in the same state.

        The default copies every attribute deeply, those in `shared` apart.

        Raises:
            ToolError: An attribute cannot be copied.
        """
        twin = copy.copy(self)
        keep = {id(value): value for name, value in vars(self).items() if name in self.shared or name in _DERIVED}
        try:
            vars(twin).update(copy.deepcopy(vars(self), keep))
        except Exception as error:
            raise ToolError(
                f"The tool {self.name!r} cannot be forked: {error}; name what forks may share in `shared`, or write "
                "`fork`."
            ) from error
        return twin

    def close(self) -> None:  # noqa: B027 - most tools have nothing to end
        """Let go of what the episode used; `setup` may follow."""

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """The JSON schema of the arguments."""
        return self.arguments.schema

    @cached_property
    def arguments(self) -> Arguments | LooseArguments:
        """What checks the arguments of a call."""
        given = vars(self).get("parameters", inspect.getattr_static(type(self), "parameters"))
        if isinstance(given, dict):
            return LooseArguments(given)
        return Arguments(self.run, self.name, read_docstring(self.run.__doc__).arguments)

    @cached_property
    def text_parameter(self) -> str | None:
        """The parameter that a bare text goes to, as in `<search>text</search>`; None where a call needs more."""
        return text_parameter(self.parameters)

    def __copy__(self) -> Self:
        twin = type(self).__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        # What checks the arguments cannot be pickled. It is made again when it is needed, and so is a schema that came
        # from the signature; one that was given stays.
        derived = _DERIVED if isinstance(vars(self).get("arguments"), Arguments) else ("arguments",)
        return {name: value for name, value in vars(self).items() if name not in derived}


_DERIVED = ("parameters", "arguments", "text_parameter")
"""Attributes that follow from the class and are never copied."""


class FunctionTool(Tool, Generic[P, R]):
    """A function as a tool; can still be called as the function. It has no state.

    Args:
        function: The function; each parameter has a type.
        options: Attributes of `Tool`: name, description, timeout, max_calls, blocking, final.

    Raises:
        ToolError: A parameter has no type, or an option is not known.
    """

    def __init__(self, function: Callable[P, R], **options: Any) -> None:
        unknown = sorted(set(options) - _OPTIONS)
        if unknown:
            raise ToolError(f"Unknown option {unknown[0]!r} of @tool. Known: {', '.join(sorted(_OPTIONS))}.")
        update_wrapper(self, function)
        self.function = function
        told = read_docstring(function.__doc__)
        self.name = getattr(function, "__name__", "")
        self.description = told.description
        for name, value in options.items():
            setattr(self, name, value)
        self.arguments = Arguments(function, self.name, told.arguments)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function as it was written."""
        return self.function(*args, **kwargs)

    def run(self, **arguments: Any) -> Any:
        """Call the function."""
        return self.function(**arguments)  # type: ignore[call-arg]

    def fork(self) -> Self:
        """Return itself: a function has no state."""
        return self

    def __reduce__(self) -> "str | tuple[Any, ...]":
        # The module's own name for a decorated function is this tool; pickle would look for the function there.
        name = getattr(self.function, "__qualname__", "")
        if getattr(sys.modules.get(self.function.__module__), name, None) is self:
            return name
        return (_function_tool, (self.function, {key: vars(self)[key] for key in _OPTIONS & vars(self).keys()}))


def _function_tool(function: Callable[..., Any], options: dict[str, Any]) -> FunctionTool[..., Any]:
    return FunctionTool(function, **options)


_OPTIONS = {"name", "description", "timeout", "max_calls", "blocking", "final"}


@overload
def tool(function: Callable[P, R], /) -> FunctionTool[P, R]: ...


@overload
def tool(**options: Any) -> Callable[[Callable[P, R]], FunctionTool[P, R]]: ...


def tool(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a tool of a typed function, sync or async: `@tool`, or `@tool(timeout=5)`.

    Name, description and JSON schema come from the signature and the docstring (Google style); the section Args
    describes the parameters.

    Args:
        function: The function; each parameter has a type.
        **options: name, description, timeout (seconds, 30 by default), max_calls (in an episode), blocking (waits for
            another process or the network), final (ends the episode).

    Raises:
        ToolError: A parameter has no type, or an option is not known.
    """
    if function is not None:
        return FunctionTool(function, **options)
    return lambda decorated: FunctionTool(decorated, **options)


def as_tool(given: "Tool | type[Tool] | Callable[..., Any] | str") -> Tool:
    """Return the tool behind an object or a reference.

    Args:
        given: A tool, a class of tools (made without arguments), a typed function, a name of `TOOLS`, or
            "module:name" or "file.py:name" of one of these.

    Raises:
        ToolError: It is none of these, cannot be imported, or cannot be made.
    """
    if isinstance(given, str):
        return as_tool(_import(given))
    if isinstance(given, type) and issubclass(given, Tool):
        given = _made(given)
    if not isinstance(given, Tool):
        if not callable(given) or isinstance(given, type):
            raise ToolError(f"{given!r} is no tool: give a Tool, a typed function, or module:name of one.")
        given = FunctionTool(given)
    return _checked(given)


def as_tools(given: "Tool | type[Tool] | Callable[..., Any] | str") -> list[Tool]:
    """Return the tools behind an object or a reference: one, see `as_tool`, or all of a list or a server.

    Args:
        given: As for `as_tool`, or "mcp:python server.py" or "mcp:http://host/mcp", see `agent_gym.tools.mcp`; what
            "module:name" or "file.py:name" names may be a list of tools as well.

    Raises:
        ToolError: It is nothing of that kind, or the server cannot be used.
    """
    if isinstance(given, str) and given.startswith("mcp:"):
        from agent_gym.tools.mcp import mcp_tools

        return [_checked(each) for each in mcp_tools(given.removeprefix("mcp:"))]
    found = _import(given) if isinstance(given, str) else given
    return [as_tool(each) for each in found] if isinstance(found, list) else [as_tool(found)]


def _made(cls: type[Tool]) -> Tool:
    try:
        return cls()
    except TypeError as error:
        raise ToolError(f"The tool {cls.__name__} cannot be made without arguments: {error}.") from error


def register_tool(name: str, reference: str) -> None:
    """Make a tool known by a short name, to configurations and the command line.

    Args:
        name: The name.
        reference: "module:name" of a tool, a class of tools, or a typed function.

    Raises:
        ToolError: The name is that of another tool.
    """
    if TOOLS.get(name, reference) != reference:
        raise ToolError(f"The tool name {name!r} is taken by {TOOLS[name]}: choose another one.")
    if not isinstance(reference, str):
        raise ToolError(f"The tool {name!r} is registered by its place, a text: give 'module:name', not {reference!r}.")
    TOOLS[name] = reference


def _import(reference: str) -> Any:
    load_plugins()
    if reference not in TOOLS and ":" not in reference:
        raise ToolError(str(UnknownIdError.of("tool", reference, TOOLS)))
    found = TOOLS.get(reference, reference)
    try:
        return load_object(found, "tool", "name")
    except UnknownIdError as error:
        raise ToolError(str(error)) from error


def _checked(given: Tool) -> Tool:
    """Refuse a tool that a model could not call, now rather than in the middle of an episode."""
    if not _NAME.fullmatch(given.name):
        raise ToolError(f"The name {given.name!r} of a tool must be 1 to 64 letters, digits, _ or -.")
    if not isinstance(given.parameters, dict) or given.parameters.get("type") != "object":
        raise ToolError(f"The parameters of the tool {given.name!r} must be a JSON schema of the type object.")
    return given
