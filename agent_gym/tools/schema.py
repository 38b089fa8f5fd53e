"""From a typed function to what a model is told of its arguments, and to the check of those that it gives.

The types are pydantic's business: `Annotated[int, Field(ge=1)]`, `Literal["a", "b"]`, dataclasses and models all work.
"""

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import CoreSchema, PydanticSerializationError, to_jsonable_python
from typing_extensions import TypedDict

from agent_gym.errors import ToolError, suggestion

_new_typed_dict: Any = TypedDict
"""As a function of names that are known only now, which a type checker does not follow."""

_SECTION = re.compile(r"(Args|Arguments|Parameters|Returns?|Yields?|Raises|Examples?|Notes?|Attributes):[ \t]*$")
_ARGUMENT = re.compile(r"\*{0,2}(\w+)[ \t]*(?:\([^)]*\))?:[ \t]*(.*)")
_SHOWN_ERRORS = 5
_SHOWN_NAME = 80
"""Longest name of an argument that is repeated to a model; names are the model's own text, and may be anything."""


class InvalidArgumentsError(Exception):
    """The arguments do not fit; says which and why, in words for the model."""


@dataclass(frozen=True, slots=True)
class Docstring:
    """What a Google-style docstring says of a function."""

    description: str
    """The text before the first section."""
    arguments: Mapping[str, str]
    """What the section Args says of each."""


def read_docstring(text: str | None) -> Docstring:
    """Take a docstring apart; whatever is not in Google style counts as description."""
    lines = inspect.cleandoc(text or "").splitlines()
    headers = [index for index, line in enumerate(lines) if _SECTION.match(line)]
    arguments: dict[str, str] = {}
    for start, end in zip(headers, [*headers, len(lines)][1:], strict=True):
        if lines[start].startswith(("Args", "Arguments", "Parameters")):
            arguments = _read_arguments(lines[start + 1 : end])
    return Docstring("\n".join(lines[: headers[0]] if headers else lines).strip(), arguments)


def _read_arguments(lines: list[str]) -> dict[str, str]:
    """Read the lines below "Args:"; a line that is indented further goes on with the argument before."""
    depth = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    arguments: dict[str, str] = {}
    name = ""
    for line in lines:
        begins = _ARGUMENT.match(line[depth:])
        if begins:
            name = begins[1]
            arguments[name] = begins[2].strip()
        elif name and line.strip():
            arguments[name] += " " + line.strip()
    return arguments


class Arguments:
    """The arguments of a typed function: their JSON schema, and the check of given ones.

    Args:
        function: The function; each parameter has a type. `self` is left out.
        name: What the tool is called, in errors.
        descriptions: What is said of each parameter.

    Raises:
        ToolError: A parameter has no type, cannot be given by name, or has a type that no JSON can describe.
    """

    def __init__(self, function: Callable[..., Any], name: str, descriptions: Mapping[str, str]) -> None:
        self._parameters = _parameters(function, name)
        fields = {each.name: _annotation(each, descriptions.get(each.name, "")) for each in self._parameters.values()}
        arguments = _new_typed_dict("arguments", fields)
        arguments.__pydantic_config__ = ConfigDict(extra="forbid")
        try:
            adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(arguments)
            self.schema = self._described(adapter)
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            problem = str(error).splitlines()[0].rstrip(".")
            raise ToolError(f"The tool {name!r} has a parameter that JSON cannot describe: {problem}.") from error
        self._validate = adapter.validator.validate_python

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments in the types of the parameters ("5" becomes 5 for an int, and so on).

        Raises:
            InvalidArgumentsError: They do not fit.
        """
        try:
            return self._validate(given)  # type: ignore[no-any-return]
        except ValidationError as error:
            raise InvalidArgumentsError(self._explain(error)) from None

    def _described(self, adapter: TypeAdapter[Any]) -> dict[str, Any]:
        schema = adapter.json_schema(schema_generator=_Untitled)
        schema.pop("title", None)
        schema.setdefault("properties", {})
        for name, parameter in self._parameters.items():
            if parameter.default is not parameter.empty:
                try:
                    schema["properties"][name]["default"] = to_jsonable_python(parameter.default)
                except PydanticSerializationError:
                    continue  # A default that JSON has no word for is not shown, and applies all the same.
        return schema

    def _explain(self, error: ValidationError) -> str:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        told = [self._sentence(problem["type"], problem["loc"], problem["msg"]) for problem in problems[:_SHOWN_ERRORS]]
        if len(problems) > _SHOWN_ERRORS:
            told.append(f"and {len(problems) - _SHOWN_ERRORS} more")
        return "; ".join(told)

    def _sentence(self, kind: str, place: tuple[int | str, ...], message: str) -> str:
        where = ".".join(str(part)[:_SHOWN_NAME] for part in place)
        if kind == "extra_forbidden" and len(place) == 1:
            return f"unknown argument {where!r}{suggestion(where, self._parameters)}".rstrip(".")
        if kind == "missing" and len(place) == 1:
            return f"{where}: this argument is missing"
        return f"{where}: {message}" if where else message


class LooseArguments:
    """Arguments that a JSON schema describes and whose types somebody else checks, such as the server of the tool.

    Args:
        schema: The JSON schema of an object.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        self.schema = schema
        self._known = schema.get("properties", {})
        self._required = schema.get("required", ())
        self._open = schema.get("additionalProperties", True) is not False and not self._known

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments as they are.

        Raises:
            InvalidArgumentsError: One is missing, or is not known.
        """
        missing = [f"{name}: this argument is missing" for name in self._required if name not in given]
        unknown = [] if self._open else [str(name)[:_SHOWN_NAME] for name in given if name not in self._known]
        told = [f"unknown argument {name!r}{suggestion(name, self._known)}".rstrip(".") for name in unknown]
        if missing or told:
            raise InvalidArgumentsError("; ".join([*missing, *told][:_SHOWN_ERRORS]))
        return dict(given)


def text_parameter(schema: Mapping[str, Any]) -> str | None:
    """Return the parameter that a bare text goes to, or None where a call cannot be made of one text.

    It is the only parameter that must be given, or else the first one that may be a text.
    """
    required = list(schema.get("required", ()))
    if required:
        return str(required[0]) if len(required) == 1 else None
    texts = (name for name, each in schema.get("properties", {}).items() if each.get("type") == "string")
    return next(texts, next(iter(schema.get("properties", {})), None))


class _Untitled(GenerateJsonSchema):
    """Leaves out titles, which only repeat the names."""

    def field_title_should_be_set(self, schema: CoreSchema | Any) -> bool:
        return False


def _parameters(function: Callable[..., Any], name: str) -> dict[str, inspect.Parameter]:
    """Return the parameters, with their types looked up."""
    try:
        hints = typing.get_type_hints(
            function.__func__ if isinstance(function, types.MethodType) else function, include_extras=True
        )
        found = inspect.signature(function).parameters
    except (NameError, TypeError, ValueError) as error:
        raise ToolError(f"The types of the tool {name!r} cannot be looked up: {str(error).rstrip('.')}.") from error
    for each in found.values():
        if each.kind not in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY):
            raise ToolError(
                f"The parameter {str(each)!r} of the tool {name!r} cannot be given by name: a tool takes named "
                "parameters alone, or has an attribute `parameters` with a JSON schema for its **arguments."
            )
        if each.name == "self":
            raise ToolError(
                f"{name!r} is a method of a class, which @tool cannot make a tool of: derive the class from "
                "agent_gym.Tool and write `run`, or give the method of an object, as Toolbox([shop.price])."
            )
        if each.name not in hints:
            raise ToolError(f"The parameter {each.name!r} of the tool {name!r} has no type: write {each.name}: str.")
    return {each.name: each.replace(annotation=hints[each.name]) for each in found.values()}


def _annotation(parameter: inspect.Parameter, description: str) -> Any:
    annotation = parameter.annotation
    if description:
        annotation = Annotated[annotation, Field(description=description)]
    return annotation if parameter.default is parameter.empty else NotRequired[annotation]
