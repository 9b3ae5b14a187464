"""diffcli plugins [list|why|new|check NAME]: what is installed, who brought it, what was set aside; a new one, and its laws."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from diffcli.cli import output
from diffcli.cli.flags import HELP, Command, Debug, Group, Json
from diffcli.errors import CheckFailed, UsageError, show
from diffcli.options import nearest
from diffcli.plugin import KINDS, Kind
from diffcli.registry import dashed, registry


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
        if dashed(plugin.plugin) == dashed(name):
            parts = [
                f"{kind} {part}" for kind in KINDS for part in found.specs(kind) if found.origin(kind, part) == plugin
            ]
            tried = f"diffcli plugins check {plugin.plugin} tries what it brings" if parts else ""
            answers.append(
                f"plugin {plugin}: loads; brings {', '.join(parts) or 'nothing'}" + (f"; {tried}." if tried else ".")
            )
    for broken in found.broken:
        if dashed(broken.name) == dashed(name):
            answers.append(
                f"plugin {show(broken.name)} of {show(broken.distribution)} {broken.version}".rstrip()
                + f": broken: {broken.reason}"
            )
            if debug:
                traceback.print_exception(found.errors[broken.name])
    if not answers:
        hint = nearest(name, names(), "; see diffcli plugins") + found.misfortune()
        raise UsageError(f"nothing is named '{show(name, 80)}'{hint}")
    for answer in answers:
        output.result(answer)
    output.last({"name": name, "answers": answers}, json)


def new(
    name: Annotated[str, typer.Argument(help="Of the plugin and its component, as in my-method.", show_default=False)],
    kind: Annotated[Kind, typer.Option(help="What it brings.")] = "method",
    output_: Annotated[
        Path, typer.Option("--output", help="Folder to write the package in, as a folder of its name.")
    ] = Path("."),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a package that brings a new method, or another part: it works at once, and is there to be changed."""
    from diffcli.scaffold import create

    made = create(name, kind, output_)
    for file in made.files:
        output.result(show(made.folder / file, 2000))
    output.result(f"next: {show(made.next, 2000)}")
    output.last({"folder": str(made.folder), "files": made.files, "next": made.next}, json)


def check(
    name: Annotated[str, typer.Argument(help="A plugin, or one component.", autocompletion=lambda: names())],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Try every law of the conformance kit on a plugin with all it brings, or on one component."""
    from diffcli.testing.check import check as judge

    suites: dict[str, list[Any]] = {}

    def report(line: str) -> None:
        of = line.partition(":")[0]
        if of not in suites:
            suites[of] = []
            output.say(f"checking {of}")

    verdicts = judge(name, report)
    for verdict in verdicts:
        suites[f"{verdict.kind} {verdict.component}"].append(verdict.outcome)
    for verdict in verdicts:
        if verdict.outcome == "skipped":
            output.say(verdict)
        elif verdict.outcome == "broken":
            output.result(show(verdict, 2000))
            if debug:
                print(verdict.traceback, file=sys.stderr)
    counts = ("ok", "broken", "skipped")
    output.rows(
        ("OF", *(count.upper() for count in counts)),
        ((of, *(outcomes.count(count) for count in counts)) for of, outcomes in suites.items()),
    )
    of = {count: sum(outcomes.count(count) for outcomes in suites.values()) for count in counts}
    laws = [{key: value for key, value in vars(v).items() if key != "traceback"} for v in verdicts]
    output.last({"name": name, **of, "laws": laws}, json)
    if of["broken"]:
        again = "" if debug else "; --debug shows where"
        raise CheckFailed(f"{show(name, 80)} breaks {of['broken']} of {len(verdicts)} laws{again}")


def build() -> Any:
    """The command."""
    app = typer.Typer(name="plugins", add_completion=False, rich_markup_mode="rich", context_settings=HELP, cls=Group)
    app.callback(invoke_without_command=True)(plugins)
    app.command("list", context_settings=HELP, cls=Command)(list_)
    app.command("why", context_settings=HELP, cls=Command)(why)
    app.command("new", context_settings=HELP, cls=Command)(new)
    app.command("check", context_settings=HELP, cls=Command)(check)
    return typer.main.get_command(app)
