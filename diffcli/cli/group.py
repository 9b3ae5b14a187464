"""Groups whose commands are built when they are asked for: one for each method, each data set."""

from __future__ import annotations

from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from diffcli.cli.flags import HELP, Group, first_positional, line
from diffcli.errors import UsageError
from diffcli.options import options
from diffcli.plugin import KINDS, Kind
from diffcli.registry import registry
from diffcli.sections import EvalOptions, SampleOptions, TrainOptions

SWITCHES = ("--help", "-h", "--json", "--debug", "--show", "--explain", "--list")


def switches() -> frozenset[str]:
    """Every flag of any command that takes no value."""
    configs = {TrainOptions, SampleOptions, EvalOptions}
    for kind in KINDS:
        for spec in registry().specs(kind).values():
            configs |= {config for config in (spec.config, spec.sample, spec.eval) if config is not None}
    names = {o.flag[2:] for config in configs for o in options(config).values() if o.base is bool}
    return frozenset(SWITCHES) | {f"--{name}" for name in names} | {f"--no-{name}" for name in names}


class Lazy(Group):
    """A group over the specs of a kind. Flags may stand before the argument that chooses.

    missing: what to say when nothing is chosen; build: (text, args) -> the command for it.
    """

    kind: ClassVar[Kind]
    missing: ClassVar[str]

    @classmethod
    def build(cls, text: str, args: list[str]) -> TyperCommand:
        raise NotImplementedError

    @classmethod
    def implied(cls, args: list[str]) -> str | None:
        """What is chosen by a flag, where no argument chooses."""
        return None

    def list_commands(self, ctx: Any) -> list[str]:
        return list(registry().specs(self.kind))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        spec = registry().specs(self.kind).get(cmd_name)
        panel = {"method": "Methods", "dataset": "Data sets"}[self.kind]
        return None if spec is None else line(spec.name, spec.summary, panel)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        where = first_positional(args, switches())
        if where is not None:
            args = [args[where], *args[:where], *args[where + 1 :]]
        elif chosen := self.implied(args):
            args = [chosen, *args]
        elif not {"--help", "-h"} & set(args) and not ctx.resilient_parsing:
            raise UsageError(
                f"{ctx.command_path} {self.missing}: {', '.join(registry().specs(self.kind)) or 'none is installed'}"
            )
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            return args[0], self.build(args[0], args[1:]), args[1:]
        except Exception:
            if ctx.resilient_parsing:  # shell completion says nothing of mistakes
                return None, None, args[1:]
            raise


def group(name: str, cls: type[Lazy], help: str, metavar: str) -> TyperGroup:
    """The group itself, without a command in it."""
    help = f"{help} --help behind a name shows its options."
    app = typer.Typer(
        name=name, cls=cls, help=help, add_completion=False, rich_markup_mode="rich", context_settings=HELP
    )
    app.callback()(lambda: None)
    made = typer.main.get_command(app)
    assert isinstance(made, TyperGroup)
    made.options_metavar, made.subcommand_metavar = "", metavar
    return made
