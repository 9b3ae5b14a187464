"""diffcli data [list|check NAME|pack FOLDER OUT]: the data sets, whether one is sound, and a folder made into shards."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand

from diffcli import options
from diffcli.cli import output
from diffcli.cli.flags import HELP, Command, Debug, Given, Group, Json, Section, command
from diffcli.cli.group import Lazy, group
from diffcli.errors import DataError, show
from diffcli.plugin import Spec, load
from diffcli.registry import registry


def listing(json: bool) -> None:
    """Names and summaries."""
    specs = registry().specs("dataset")
    if specs:
        output.rows(("NAME", "SUMMARY"), ((name, spec.summary) for name, spec in specs.items()))
    else:
        output.result("no data set is installed")
    output.last({"datasets": list(specs)}, json)


def data(ctx: typer.Context, json: Json = False, debug: Debug = False) -> None:
    """List the data sets, check that one is sound, and make shards of a folder."""
    if ctx.invoked_subcommand is None:
        listing(json)


def list_(json: Json = False, debug: Debug = False) -> None:
    """List the data sets."""
    listing(json)


class Check(Lazy):
    """diffcli data check."""

    kind = "dataset"
    missing = "needs a data set; there are"

    @classmethod
    def build(cls, text: str, args: list[str]) -> TyperCommand:
        spec = registry().get("dataset", text)

        def run(given: Given, *, json: bool, **_: Any) -> None:
            config = options.structure(spec.config, given.get("dataset", {}), "[dataset]")
            if "check" in spec.tools:
                inspect(spec, config, json)
            check(spec, config, json)

        return command(text, spec.summary, [Section("dataset", spec.config, f"Data set: {text}")], run)


def check(spec: Spec, config: Any, json: bool) -> None:
    """Open both splits and read the first items."""
    target = spec.load()
    import torch

    from diffcli.engine.assemble import Facts

    found = []
    for split in ("train", "test"):
        dataset = target(config, split)
        facts = Facts.of(dataset)
        index = torch.arange(min(16, len(dataset)))
        dataset.batch(dataset.items(0, index), index, facts.space(spec.family))
        row = {"split": facts.split, "images": len(dataset), "shape": list(facts.shape), "classes": facts.classes}
        found.append({**row, "characters": len(facts.alphabet)} if facts.alphabet else row)
    output.rows([key.upper() for key in found[0]], ([output.cell(value) for value in row.values()] for row in found))
    output.last({"dataset": spec.name, "splits": found}, json)


def inspect(spec: Spec, config: Any, json: bool) -> None:
    """Decode every file of both splits. DataError after a line for each bad one."""
    work, bad, n = load(spec.tools["check"]), list[str](), 0
    for split in ("train", "test"):
        with Files(f"check {split}") as tick:
            files, faults = work(config, split, tick)
        n, bad = n + files, bad + faults
    for line in bad:
        output.result(show(line, 1000))
    if bad:
        output.last({"dataset": spec.name, "files": n, "bad": bad}, json)
        raise DataError(
            f"{len(bad)} faults in {n} pictures of {spec.name}, as listed; bring their files again, or remove them"
        )


class Files:
    """A bar of files, whose number is told by what works on them."""

    def __init__(self, what: str):
        self.what, self.bar, self.began = what, cast(Any, None), time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` files are behind us."""
        if self.bar is None or self.bar.total != total:  # the next split has files of its own
            from diffcli.engine.progress import Bar

            if self.bar is not None:
                self.bar.__exit__(None, None, None)
                self.began = time.monotonic()
            self.bar = Bar(self.what, total, output.progress()).__enter__()
            self.bar.first = self.began
        self.bar.update(done)

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *error: Any) -> None:
        if self.bar is not None:
            self.bar.__exit__(*error)


def pack(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Images, as the data set folder takes them.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new folder of shards.")],
    size: Annotated[
        int | None,
        typer.Option(min=4, max=4096, help="Shrink to the middle square of so many pixels a side; unset keeps files."),
    ] = None,
    shard_size: Annotated[float, typer.Option(min=0.01, max=1e5, help="MB of a shard.")] = 256.0,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", metavar="", help="Leave bad files out.", show_default=False)
    ] = False,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Threads that read.")] = 8,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make tar shards of a folder of images, in the layout of WebDataset, for the data set shards."""
    spec = registry().get("dataset", "folder")
    given = {"path": str(folder), "skip_bad": skip_bad, "workers": workers}
    config = options.structure(spec.config, given, "[dataset]")
    with Files("pack") as tick:
        made = load(spec.tools["pack"])(config, out, size, round(shard_size * 1e6), tick)
    output.rows(("SPLIT", "IMAGES", "SHARDS"), made)
    output.result(show(out))
    output.last(
        {"folder": str(out), "splits": [dict(zip(("split", "images", "shards"), m, strict=True)) for m in made]}, json
    )


def build() -> Any:
    """The command."""
    app = typer.Typer(name="data", add_completion=False, rich_markup_mode="rich", context_settings=HELP, cls=Group)
    app.callback(invoke_without_command=True)(data)
    app.command("list", context_settings=HELP, cls=Command)(list_)
    app.command("pack", context_settings=HELP, cls=Command)(pack)
    made: Any = typer.main.get_command(app)
    made.add_command(group("check", Check, "Check that a data set can be read here, file by file.", "NAME [FLAGS]"))
    return made
