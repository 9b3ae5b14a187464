"""diffcli doctor: what this machine offers, and what is wrong with it; or what a run holds, tensor by tensor."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

from diffcli import __version__
from diffcli.cli import output
from diffcli.cli.flags import HELP, Command, Debug, Json
from diffcli.cli.method import known_run
from diffcli.engine.rundir import find
from diffcli.errors import CheckFailed, show
from diffcli.registry import registry

DOCUMENTED = ("DIFFCLI_DATA", "DIFFCLI_PLUGINS")
PACKAGES = ("numpy", "typer", "rich", "pluggy", "safetensors", "pillow", "matplotlib", "huggingface_hub")


def facts() -> dict[str, str]:
    """Versions and devices."""
    found = {"diffcli": __version__, "python": platform.python_version(), "system": platform.platform()}
    try:
        import torch

        found["torch"] = torch.__version__
        found["threads"] = f"{torch.get_num_threads()} of {os.cpu_count()}"
        devices = [f"cuda:{k} {torch.cuda.get_device_name(k)}" for k in range(torch.cuda.device_count())]
        devices += ["mps"] if torch.backends.mps.is_available() else []
        found["devices"] = ", ".join([*devices, "cpu"])
    except Exception as error:  # a broken installation is what doctor is for
        found["torch"] = f"broken: {type(error).__name__}: {show(error)}"
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "broken: not installed"
    return found


def problems(found: dict[str, str]) -> list[str]:
    """What is wrong, each with what to do."""
    wrong = [f"{name} is {value}; install it again" for name, value in found.items() if value.startswith("broken")]
    wrong += [
        f"plugin {show(b.name)} of {show(b.distribution)} is broken: {b.reason}; update or uninstall it"
        for b in registry().broken
    ]
    if not registry().specs("method"):
        wrong.append("no method is installed; install diffcli again")
    if not os.access(Path.cwd(), os.W_OK):
        wrong.append(f"{show(Path.cwd())} cannot be written to; go elsewhere, or give --output")
    data = os.environ.get("DIFFCLI_DATA")
    if data and not Path(data).is_dir():
        wrong.append(f"DIFFCLI_DATA is {show(data)}, which is no folder; unset it, or make the folder")
    return wrong


RUN = (
    "A method, whose newest run is taken, a run or model folder, or hub:OWNER/NAME: list its tensors in place of that."
)


def doctor(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help=RUN, show_default=False)] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what this machine offers and what is wrong with it, or with the tensors of a RUN; 1 if anything is."""
    if run is not None:
        tensors(run, json)
        return
    found = facts()
    found |= {name: os.environ[name] for name in DOCUMENTED if name in os.environ}
    wrong = problems(found)
    output.rows(("WHAT", "IS"), found.items())
    for problem in wrong:
        output.result(f"problem: {problem}")
    output.last({"facts": found, "problems": wrong}, json)
    if wrong:
        sys.stdout.flush()
        raise CheckFailed(
            f"{len(wrong)} {'problem' if len(wrong) == 1 else 'problems'} found; each line says what to do"
        )


def tensors(run: str, json: bool) -> None:
    """The inventory of a run or a model folder."""
    known_run(run) or find(run)  # a wrong name is refused before torch is imported
    from diffcli.engine.inventory import inventory

    found = inventory(run)
    counts = {"missing": found.count("missing"), "left_over": found.count("left over")}
    counts["wrong"] = len(found.lines) - found.count("ok") - sum(counts.values())
    output.rows(("TENSOR", "IN THE FILE", "IN THE MODEL", "VERDICT"), found.lines)
    output.result(
        f"{len(found.lines)} tensors: {counts['missing']} missing, {counts['left_over']} left over, {counts['wrong']} "
        f"otherwise wrong; {found.parameters} parameters, {found.numbers} numbers in the model"
    )
    for note in found.notes:
        output.result(f"note: {show(note, 2000)}")
    each = [line._asdict() for line in found.lines]
    total = {"parameters": found.parameters, "numbers": found.numbers, "sha256": found.sha256}
    output.last({"model": found.place, **total, **counts, "notes": found.notes, "tensors": each}, json)
    if bad := sum(counts.values()):
        sys.stdout.flush()
        first = next(line for line in found.lines if line.verdict != "ok")
        raise CheckFailed(
            f"{bad} of the tensors of {show(found.place)} are not as they should be: the first, {show(first.tensor)}, is {first.verdict}"
        )


def build() -> Any:
    """The command."""
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command("doctor", context_settings=HELP, cls=Command)(doctor)
    return typer.main.get_command(app)
