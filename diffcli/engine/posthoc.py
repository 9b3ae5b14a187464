"""The stored averages of a run, and the average of any width that is made of them: see engine.profiles."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from diffcli.engine import checkpoint, parallel
from diffcli.engine.checkpoint import Checkpoint, open_checkpoint
from diffcli.engine.manifest import Damaged
from diffcli.engine.profiles import Profile, fit, gamma_of
from diffcli.engine.progress import Say
from diffcli.engine.rundir import committed
from diffcli.engine.saving import Saver
from diffcli.errors import RunError, show

if TYPE_CHECKING:
    from diffcli.engine.job import Job

FOLDER = "ema"  # of a run: a folder each step, as in checkpoints/
STATE = "ema_profiles"  # in the state of a snapshot, and of a checkpoint: name of the tensors -> sigma_rel


def averaged(job: Job) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
    """(tensors, state) of the averages as they are, for a snapshot or a checkpoint; all processes ask at once."""
    first = job.world.first
    tensors = {name: parallel.collected(each.model.state_dict(), first) for name, each in job.profiles.items()}
    widths = {name: each.width for name, each in job.profiles.items()}
    return dict(tensors), {STATE: widths} if widths else {}


def snapshot(job: Job, run: Path, step: int, saver: Saver) -> None:
    """Keep the averages of this step, durably; the first process writes them."""
    tensors, state = averaged(job)
    commit = partial(checkpoint.commit, run / FOLDER, step)
    job.world.alone(lambda: saver.hand("snapshot", tensors, state, job.meta, commit))


def cut(run: Path, step: int) -> None:
    """Remove the snapshots after a step: a resume makes them again, each once."""
    for number, path in committed(run, FOLDER):
        if number > step:
            with suppress(OSError):  # it is replaced then, and set aside
                shutil.rmtree(path.rename(checkpoint.scratch(path.parent, number)))


class Average(NamedTuple):
    """A stored average: where, the name of its tensors, and what it averages."""

    place: Checkpoint
    name: str
    profile: Profile


def averages(place: Checkpoint) -> Iterator[Average]:
    """Those of a snapshot or a checkpoint."""
    widths = place.state.get(STATE, {})
    if not isinstance(widths, dict) or not all(type(width) is float for width in widths.values()):
        raise RunError(f"{show(place.path)} says nothing usable of its averages; diffcli did not write it")
    for name, width in sorted(widths.items()):
        yield Average(place, name, Profile(gamma_of(width), place.step))


def kept(run: Path, last: Checkpoint, say: Say) -> list[Average]:
    """The averages of a run up to a checkpoint, its own among them; a damaged snapshot is told of and passed over."""
    found = list(averages(last))
    for step, path in committed(run, FOLDER):
        if step < last.step:
            try:
                snapshot = open_checkpoint(path)
                snapshot.verify()
                found += averages(snapshot)
            except Damaged as error:
                say(f"warning: damaged snapshot passed over: {error}")
    return found


def reconstruct(found: Sequence[Average], width: float, step: int) -> tuple[dict[str, Tensor], float]:
    """(the average of a relative width after `step` steps, the relative error of its profile), summed in float64.

    What is no number with a fraction is taken from the newest. RunError where nothing is stored.
    """
    if not found:
        raise RunError(
            "the run has stored no averages to make another one of; train with --ema-snapshots, or leave --ema-width out"
        )
    share, error = fit([average.profile for average in found], Profile(gamma_of(width), step))
    newest = max(found, key=lambda average: average.profile.t)
    made: dict[str, Any] = newest.place.tensors(newest.name)
    sums = {name: torch.zeros_like(t, dtype=torch.float64) for name, t in made.items() if t.is_floating_point()}
    for x, average in zip(share, found, strict=True):
        if x:
            tensors = average.place.tensors(average.name)
            for name, total in sums.items():
                total.add_(tensors[name].double(), alpha=x)
    return {name: sums[name].to(t.dtype) if name in sums else t for name, t in made.items()}, error
