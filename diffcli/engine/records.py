"""Records: numbers that carry all that they depend on, appended to their run, and compared only where they are alike."""

from __future__ import annotations

import errno
import json
import os
import shlex
import stat
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import torch

from diffcli import recipe as recipes
from diffcli.engine.environment import cpu, versions
from diffcli.engine.files import acting, room
from diffcli.engine.rundir import Found
from diffcli.errors import DiffcliError, EnvironmentProblem, RunError, show
from diffcli.options import options, table

if TYPE_CHECKING:
    from diffcli.engine.evaluate import Bench

Record = dict[str, Any]
# In these two records of one metric must agree; the sampler, its cost and the model are what is compared. What --per-class
# says stands in n and label.
ALIKE = (
    "unit",
    "objective",
    "dataset",
    "split",
    "shape",
    "label",
    "n",
    "images",
    "n_train",
    "epochs",
    "extractor",
    "extractor_sha256",
    "resizer",
    "reference",
    "reference_sha256",
    "neighbors",
    "draws",
    "missing",
    "mask_ratio",
)


def record(bench: Bench, metric: str, value: float, more: Mapping[str, Any]) -> Record:
    """The record of a number. more: what the measure knows of it; with `n` among it, it is of the samples.

    reference_sha256 is that of the split it names, where the measure says no other: see Bench.sha256.
    """
    of_samples = bench.samples.facts | {"nfe": bench.samples.nfe} if "n" in more else {}
    about = setting(bench, command(bench, "--metric", bench.measuring or bench.options.metric))
    made = {"metric": metric, "value": value, **about, **of_samples, **more}
    if "reference_sha256" not in made and (sha256 := bench.sha256(made["split"])):
        made["reference_sha256"] = sha256
    return {key: value for key, value in made.items() if key != "torch"}


def setting(bench: Bench, command: str) -> Record:
    """What all that is made on a bench depends on, whatever it is: data, seed, weights, machine; command: that made it."""
    model = bench.model
    on_gpu = model.device.type == "cuda"
    machine = torch.cuda.get_device_name(model.device) if on_gpu else f"{cpu()}, {torch.get_num_threads()} threads"
    return {
        "dataset": model.facts.name,
        "split": "none",
        "shape": list(model.facts.shape),
        "seed": bench.options.seed,
        "run": model.where,
        "step": model.step,
        "weights": model.weights,
        "weights_sha256": model.sha256,
        "method": bench.recipe.method.name,
        "device": str(model.device),
        "hardware": machine,
        "versions": {name: versions()[name] for name in ("diffcli", "torch")},
        "date": f"{datetime.now().astimezone():%Y-%m-%dT%H:%M:%S%z}",
        "command": command,
    }


def command(bench: Bench, *asked: str) -> str:
    """The command line that makes on another day what is asked for (--metric loss, say): what differs from the run's own recipe."""
    base = recipes.resolve(bench.model.recipe.tables())
    sampler = {} if "sampler" not in bench.recipe.parts else {"name": bench.recipe.parts["sampler"].name}
    base = recipes.resolve(recipes.overlay(base.tables(), {"sampler": sampler} if sampler else {}))
    words = ["diffcli", "eval", bench.model.where, *asked]
    if sampler and sampler["name"] != bench.model.recipe.parts["sampler"].name:
        words += ["--sampler", sampler["name"]]
    for kind in ("dataset", "sampler"):
        if kind in bench.recipe.parts:
            words += flags(base.parts[kind].config, bench.recipe.parts[kind].config)
    return shlex.join([*words, *flags(base.evaluation({}), bench.options, {"metric", "columns", "format"})])


def flags(before: Any, now: Any, without: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    """The flags that make one config of another of its type."""
    had, has = table(before), table(now)
    words: list[str] = []
    for name, option in options(type(now)).items():
        if name in without or name not in has or has[name] == had.get(name):
            continue
        value = has[name]
        if option.base is bool:
            words.append(option.flag if value else f"--no-{option.flag[2:]}")
        else:
            words += [option.flag, ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return words


class Unkept(EnvironmentProblem):
    """What was measured, in `result`, could not be kept; it is told before this is raised."""

    def __init__(self, why: DiffcliError, result: Any):
        super().__init__(str(why))
        self.code, self.result = why.code, result


def append(found: Found, records: list[Record]) -> None:
    """Keep records in evals.jsonl of the run they are of; a model folder keeps none."""
    if found.kind == "model" or not records:
        return
    text = "".join(json.dumps(one, allow_nan=False) + "\n" for one in records)
    with acting("write", evals(found)), opened(evals(found), os.O_CREAT) as file:
        file.write(text)


def ready(found: Found) -> None:
    """Raise, before anything costs time, where records of a run could not be kept; creates nothing."""
    if found.kind == "model":
        return
    path = evals(found)
    if not os.path.lexists(path):
        room(found.run, 0)
        return
    with acting("write", path), opened(path):
        pass


def opened(path: Path, flags: int = 0) -> TextIO:
    """A regular file, to append to; RunError for a link or anything else, which could lead out of the run."""
    more = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, more | flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise RunError(f"{show(path)} is no regular file, so no record is kept there; move it away") from None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise RunError(f"{show(path)} is no regular file, so no record is kept there; move it away")
    return open(fd, "a", encoding="utf-8")


def evals(found: Found) -> Path:
    """Where the records of a run are kept."""
    return found.run / "evals.jsonl"


def comparable(a: Record, b: Record) -> str | None:
    """The first field in which two records of one metric differ and must not; None where they can be compared."""
    return next((field for field in ALIKE if a.get(field) != b.get(field)), None)
