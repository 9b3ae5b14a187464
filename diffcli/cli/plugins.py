"""diffcli plugins [list|why NAME]: what is installed, who brought it, and what was set aside."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from diffcli.cli import output
from diffcli.cli.flags import HELP, Debug, Json
from diffcli.errors import UsageError, show
from diffcli.options import nearest
from diffcli.plugin import KINDS
from diffcli.registry import registry


def listing(json: bool) -> None:
    """All components, and the broken plugins below them."""
    found = registry()
    specs = [(kind, name, spec) for kind in KINDS for name, spec in found.specs(kind).items()]
    if specs:
        output.rows(
            ("KIND", "NAME", "FAMILY", "FROM", "SUMMARY"),
            (
                (kind, name, spec.family or "", found.origin(kind, name).distribution, spec.summary)
                for kind, name, spec in specs
            ),
        )
    else:
        output.result("no plugin is installed")
    for broken in found.broken:
        output.result(
            f"broken: {show(broken.name)} of {show(broken.distribution)} {broken.version}".rstrip()
            + f": {broken.reason}"
        )
    parts = [
        {
            "kind": kind,
            "name": name,
            "family": spec.family,
            "summary": spec.summary,
            **found.origin(kind, name)._asdict(),
        }
        for kind, name, spec in specs
    ]
    output.last({"parts": parts, "broken": [vars(broken) for broken in found.broken]}, json)


def plugins(ctx: typer.Context, json: Json = False, debug: Debug = False) -> None:
    """List the installed components, and say why a plugin is broken."""
    if ctx.invoked_subcommand is None:
        listing(json)


def list_(json: Json = False, debug: Debug = False) -> None:
    """List all components and who brought them."""
    listing(json)


def names() -> list[str]:
    """Everything `why` knows."""
    found = registry()
    parts = [name for kind in KINDS for name in found.specs(kind)]
    return list(dict.fromkeys([*parts, *(p.plugin for p in found.plugins), *(b.name for b in found.broken)]))


def why(
    name: Annotated[str, typer.Argument(help="A component or a plugin.", autocompletion=lambda: names())],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say where a component comes from, or why a plugin is broken."""
    found, answers = registry(), []
    for kind in KINDS:
        if name in found.specs(kind):
            spec, origin = found.specs(kind)[name], found.origin(kind, name)
            fits = f", for {spec.family} processes" if spec.family else ""
            uses = "; uses " + ", ".join(f"{used} {use.name}" for used, use in spec.uses.items()) if spec.uses else ""
            answers.append(
                f"{kind} {name}: {spec.summary} From plugin {origin}{fits}{uses}; implemented by {spec.target}."
            )
    for plugin in found.plugins:
        if plugin.plugin == name:
            parts = [
                f"{kind} {part}" for kind in KINDS for part in found.specs(kind) if found.origin(kind, part) == plugin
            ]
            answers.append(f"plugin {plugin}: works; brings {', '.join(parts) or 'nothing'}.")
    for broken in found.broken:
        if broken.name == name:
            answers.append(
                f"plugin {show(name)} of {show(broken.distribution)} {broken.version}: broken: {broken.reason}"
            )
    if not answers:
        raise UsageError(f"nothing is named '{show(name, 80)}'{nearest(name, names(), '; see diffcli plugins')}")
    for answer in answers:
        output.result(answer)
    output.last({"name": name, "answers": answers}, json)


def build() -> Any:
    """The command."""
    app = typer.Typer(name="plugins", add_completion=False, rich_markup_mode="rich", context_settings=HELP)
    app.callback(invoke_without_command=True)(plugins)
    app.command("list", context_settings=HELP)(list_)
    app.command("why", context_settings=HELP)(why)
    return typer.main.get_command(app)
