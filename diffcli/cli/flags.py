"""Options of configs as typer options, and the flags that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from diffcli.errors import PluginError, UsageError, show
from diffcli.options import Option, nearest, options, untyped

Json = Annotated[bool, typer.Option("--json", metavar="", help="End stdout with one line of JSON.", show_default=False)]
Debug = Annotated[bool, typer.Option("--debug", metavar="", help="Show the traceback of an error.", show_default=False)]
Given = dict[str, dict[str, Any]]
MEANT = dict.fromkeys(("-n", "--n", "--num", "--number", "--count", "--num-samples"), "--samples")  # of other tools
HELP = {"help_option_names": ["-h", "--help"]}


@dataclass(frozen=True)
class Section:
    """Options of one config as a panel of a command.

    values: what holds without a flag, shown by --help; owner: who brought the config, to be named when flags collide;
    more: what is said here behind the help of an option.
    """

    name: str
    config: type
    panel: str
    values: Mapping[str, Any] = field(default_factory=dict)
    owner: str = ""
    more: Mapping[str, str] = field(default_factory=dict)


def escape(text: str) -> str:
    """Square brackets are text, not rich's markup."""
    return text.replace("[", r"\[")


def text(value: Any) -> str | None:
    """A value as it would be typed on the command line."""
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return None if value is None else str(value)


def extra(name: str, kind: Any, default: Any, help: str, **settings: Any) -> inspect.Parameter:
    """An option of the command itself."""
    flag = "--" + name.replace("_", "-")
    if kind is bool:
        settings |= {"metavar": "", "show_default": False}
    info = typer.Option(flag, help=escape(help), **settings)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def line(name: str, help: str, panel: str | None = None) -> TyperCommand:
    """A command as a line of its group's help; it cannot run."""
    return TyperCommand(name=name, help=escape(help), rich_help_panel=panel)


def complete(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Shell completion among names that are looked up when asked for."""

    def completion(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return completion


def common() -> list[inspect.Parameter]:
    """The flags of every command."""
    return [
        inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json),
        inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug),
    ]


def parameter(option: Option, section: Section) -> inspect.Parameter:
    """One option of a config. Typer sees a text, `Option.parse` reads it: one grammar for flags and recipes."""
    value = section.values.get(option.name, option.default)
    settings: dict[str, Any] = {
        "help": escape(option.help + section.more.get(option.name, "")),
        "rich_help_panel": section.panel,
    }
    kind: Any = str | None
    if option.base is bool:
        kind, names = bool, (f"{option.flag}/--no-{option.flag[2:]}",)
        settings["metavar"] = ""
    else:
        names, value = (option.flag,), text(value)
        settings["metavar"] = option.metavar()
    if option.choices:
        settings["autocompletion"] = complete(lambda: map(str, option.choices))
    annotation = Annotated[kind, typer.Option(*names, **settings)]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=annotation)


def command(
    name: str,
    help: str,
    sections: Sequence[Section],
    run: Callable[..., None],
    extras: Sequence[inspect.Parameter] = (),
    explain: Callable[[str], str | None] = lambda flag: None,
) -> TyperCommand:
    """A command with the options of some configs.

    run: called with `given`, {section: {key: value}} of the flags on the command line alone, and with the extras by name.
    explain: where a flag belongs that this command does not have, for the error. Raises PluginError for flags that collide.
    """
    owners: dict[str, Section] = {}
    parameters = [
        inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *extras,
        *common(),
    ]
    for section in sections:
        for option in options(section.config).values():
            if option.name in owners:
                first = owners[option.name]
                raise PluginError(
                    f"{option.flag} is brought by both {show(first.owner or first.panel)} and {show(section.owner or section.panel)}; "
                    "one of them must rename it"
                )
            owners[option.name] = section
            parameters.append(parameter(option, section))

    def callback(ctx: typer.Context, **values: Any) -> None:
        given: Given = {}
        for key, section in owners.items():
            value, source = values.pop(key), ctx.get_parameter_source(key)
            if source is not None and source.name == "COMMANDLINE":
                option = options(section.config)[key]
                value = value if option.base is bool else option.parse(value, option.flag)
                given.setdefault(section.name, {})[key] = untyped(value)
        values.pop("debug")
        from diffcli.cli.blame import warn  # with it comes the registry, which --help can do without

        warn()
        run(given, **values)

    callback.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    settings = {**HELP, "max_content_width": 120}
    app.command(name, help=escape(help), cls=Command, context_settings=settings)(callback)
    made = typer.main.get_command(app)
    assert isinstance(made, Command)
    made.explain = explain
    return made


class Quiet:
    """A command or group whose --help shows no type for its switches."""

    params: list[Any]

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            option.metavar, option.default = "", False  # None would make typer import pydantic to read it
        return option


class Group(Quiet, TyperGroup):
    """A group of commands."""


class Command(Quiet, TyperCommand):
    """A command whose errors say where an unknown flag belongs."""

    explain: Callable[[str], str | None] = staticmethod(lambda flag: None)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            flag, kind = getattr(error, "option_name", None), type(error).__name__
            if flag is None or ctx.resilient_parsing:
                raise
            known = {opt: param for param in self.params for opt in (*param.opts, *param.secondary_opts)}
            if kind == "BadOptionUsage" and flag in known and not known[flag].is_flag:
                raise UsageError(f"{flag} needs a value, {known[flag].metavar}") from None
            if not kind.startswith("NoSuchOption"):
                raise
            meant = MEANT[flag] if MEANT.get(flag) in known else flag
            hint = self.explain(flag) or nearest(meant, known, f"; see {ctx.command_path} --help")
            raise UsageError(f"{ctx.command_path} has no option {show(flag, 80)}{hint}") from None


def peek(args: Sequence[str], flag: str) -> str | None:
    """The value of a flag before the options are known; the last one counts."""
    found = None
    for k, arg in enumerate(args):
        if arg == "--":
            break
        if arg == flag and k + 1 < len(args):
            found = args[k + 1]
        elif arg.startswith(flag + "="):
            found = arg[len(flag) + 1 :]
    return found


def first_positional(args: Sequence[str], switches: Iterable[str]) -> int | None:
    """Where the first argument stands that is neither a flag nor its value. switches: flags that take no value."""
    known, skip = set(switches), False
    for k, arg in enumerate(args):
        if skip:
            skip = False
        elif arg == "--":
            return k + 1 if k + 1 < len(args) else None
        elif not arg.startswith("-") or arg == "-":
            return k
        else:
            skip = "=" not in arg and arg not in known
    return None
