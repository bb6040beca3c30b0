"""The parser of a command line, made from the commands' signatures and docstrings, and from a recipe's fields.

In: a table of functions. Out: a parser; jsonargparse does the parsing. A parameter is a positional, a flag or an
option; one that is annotated `Overrides` becomes an option for every field of a recipe, by its dotted name. Knows
nothing of what the commands do, and loads no torch.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from argparse import Action, ArgumentTypeError
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, NoReturn, TypeAlias, get_args, get_origin, get_type_hints

from jsonargparse import SUPPRESS, ArgumentParser, DefaultHelpFormatter, Namespace

from modelscope_reid import __version__
from modelscope_reid.errors import ConfigError
from modelscope_reid.fields import members, nearest, parse_value

Commands: TypeAlias = Mapping[str, tuple[Callable[..., int], Mapping[str, str]]]
"""Each command's function and its positional arguments: "" is one value, "?" one or none, "*" any number."""
Overrides: TypeAlias = Mapping[str, Any]
"""The fields of a recipe that were given, by dotted name."""

_METAVARS = {int: "N", float: "X", bool: "{true,false}", str: "TEXT"}


class CommandParser(ArgumentParser):
    """A parser that names the option nearest to one it does not know."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print usage and `message`, and exit with 2."""
        if unknown := re.match(r"unrecognized arguments: (--[^\s=]+)", message):
            known = [option for action in self._actions for option in action.option_strings]
            message = f"{unknown[1]} is no option of {self.prog}{nearest(unknown[1], known) or '.'}"
        super().error(message, ex)


class _Help(DefaultHelpFormatter):
    """Help with defaults where there are some, and without the types of Python."""

    def _get_help_string(self, action: Action) -> str:
        text = action.help or ""
        if action.required and action.option_strings:
            return f"{text} (required)"
        return text if action.default in (None, False, SUPPRESS, []) else f"{text} (default: %(default)s)"


@dataclass(frozen=True)
class FieldOption:
    """A field of a recipe as an option: its dotted name, its annotation and its help text."""

    name: str
    hint: Any
    text: str


def build_parser(commands: Commands, arguments: Sequence[str] = ()) -> ArgumentParser:
    """Return the parser of all commands.

    The options of a recipe's fields are made only where their command is among `arguments`: there are many.
    """
    parser = CommandParser(
        prog="modelscope-reid",
        description="Person re-identification: embed, compare, evaluate, convert and train.",
        formatter_class=_Help,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"modelscope-reid {__version__}")
    subcommands = parser.add_subcommands(required=True, dest="command")
    for name, (function, positionals) in commands.items():
        documentation = _documentation(function)
        command = _command_parser(function, documentation[""])
        hints = get_type_hints(function)
        for parameter in inspect.signature(function).parameters.values():
            if hints[parameter.name] != Overrides:
                _add_argument(command, parameter, hints[parameter.name], documentation[parameter.name], positionals)
            elif name in arguments:
                _add_fields(command, parameter.name)
        subcommands.add_subcommand(name, command, help=documentation[""])
        command.prog = f"{parser.prog} {name}"  # jsonargparse writes [options] between them
    return parser


def keyword_arguments(options: Namespace, function: Callable[..., int]) -> dict[str, Any]:
    """Return a command's parsed options as its function takes them."""
    given = dict(vars(options))
    for name, hint in get_type_hints(function).items():
        if hint == Overrides:  # a Namespace's items are its leaves, by dotted name
            given[name] = dict(given[name].items()) if name in given else {}
    return given


def recipe_options() -> Iterator[tuple[str, str, list[FieldOption]]]:
    """Yield the sections of a recipe: dotted name ("" for the recipe itself), what it is, and its fields."""
    from modelscope_reid.training.recipe import Recipe

    yield from _sections(Recipe, "")


def _sections(kind: type, prefix: str) -> Iterator[tuple[str, str, list[FieldOption]]]:
    hints, documentation = get_type_hints(kind), _documentation(kind)
    leaves: list[FieldOption] = []
    inner: list[tuple[str, type]] = []
    for item in dataclasses.fields(kind):
        nested = [
            member
            for member in members(hints[item.name])
            if isinstance(member, type) and dataclasses.is_dataclass(member)
        ]
        if nested:
            inner.append((f"{prefix}{item.name}.", nested[0]))
        else:
            leaves.append(FieldOption(prefix + item.name, hints[item.name], documentation[item.name]))
    yield prefix.removesuffix("."), documentation[""], leaves
    for name, section in inner:
        yield from _sections(section, name)


def _command_parser(function: Callable[..., int], summary: str) -> CommandParser:
    if Overrides not in get_type_hints(function).values():
        return CommandParser(description=summary, allow_abbrev=False)
    return CommandParser(
        description=f"{summary} A field that is not given stays as the recipe has it.",
        usage="%(prog)s RECIPE --output RUN [--data.root DIR] [--SECTION.FIELD VALUE ...]\n"
        "       %(prog)s --resume RUN",
        allow_abbrev=False,
    )


def _add_fields(parser: ArgumentParser, destination: str) -> None:
    """Add an option per field of a recipe, a group per section; what was not given is not in the result."""
    for title, text, fields in recipe_options():
        group = parser.add_argument_group(title or "recipe", text)
        for field in fields:
            group.add_argument(
                f"--{field.name}",
                dest=f"{destination}.{field.name}",
                default=SUPPRESS,
                help=field.text.replace("%", "%%"),
                **_reading(field.hint),
            )


def _reading(hint: Any) -> dict[str, Any]:
    """Return how a field's text is read, how many values it has, and what the help calls them."""
    kind = next(member for member in members(hint) if member is not NoneType)
    inner = get_args(kind)
    if get_origin(kind) is tuple and Ellipsis not in inner:
        return {"type": _reader(inner[0]), "nargs": len(inner), "metavar": (_METAVARS[inner[0]],) * len(inner)}
    if get_origin(kind) is tuple:
        return {"type": _reader(hint), "metavar": "N,N,..." if inner[0] is int else "[N,...],..."}
    if get_origin(kind) is Literal:
        return {"type": _reader(hint), "metavar": f"{{{','.join(inner)}}}"}
    return {"type": _reader(hint), "metavar": _METAVARS[kind]}


def _reader(hint: Any) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return parse_value(text, hint)
        except ConfigError as error:
            raise ArgumentTypeError(str(error)) from error

    return read


def _add_argument(
    parser: ArgumentParser, parameter: inspect.Parameter, hint: Any, text: str, positionals: Mapping[str, str]
) -> None:
    """Add one parameter: a positional, a flag for a bool, else an option with the parameter's type and default."""
    if parameter.name in positionals:
        count: dict[str, Any] = {"nargs": positionals[parameter.name]} if positionals[parameter.name] else {}
        if count.get("nargs") == "*":
            count["default"] = []
        parser.add_argument(parameter.name, help=text, **count)
        return
    options: dict[str, Any] = {"help": text}
    choices = [
        value for member in (hint, *get_args(hint)) if get_origin(member) is Literal for value in get_args(member)
    ]
    if hint is bool:
        options["action"] = "store_true"
    elif choices:
        options["choices"] = choices
    elif hint == tuple[int, int] | None:
        options |= {"type": int, "nargs": 2, "metavar": ("HEIGHT", "WIDTH")}
    else:
        options["type"] = hint
    if parameter.default is parameter.empty:
        options["required"] = True
    elif parameter.default is not None and hint is not bool:
        options["default"] = parameter.default
    parser.add_argument("--" + parameter.name.replace("_", "-"), **options)


def _documentation(documented: Callable[..., Any]) -> dict[str, str]:
    """Return the summary of a function or a class under "", and the text of each of its arguments."""
    from docstring_parser import parse

    parsed = parse(documented.__doc__ or "")
    return {
        "": parsed.short_description or "",
        **{item.arg_name: " ".join((item.description or "").split()) for item in parsed.params},
    }
