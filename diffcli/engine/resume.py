"""What a checkpoint of a training holds, and how a training goes on from it as if it had never stopped."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from diffcli import recipe as recipes
from diffcli.core.method import Method
from diffcli.core.space import Space
from diffcli.engine import checkpoint, parallel, posthoc
from diffcli.engine.assemble import Facts
from diffcli.engine.bystander import Bystander
from diffcli.engine.environment import versions
from diffcli.engine.job import Job
from diffcli.engine.progress import Say
from diffcli.engine.rundir import RunDir, committed, find
from diffcli.engine.saving import NOW, Groups, Saver
from diffcli.errors import RunError, show
from diffcli.parts import Tables
from diffcli.recipe import Recipe

HARMLESS = {
    "keep",
    "keep_every",
    "sample_every",
    "save_every",
    "eval_every",
    "async_save",
    "loggers",
    "keep_memory",
}  # change no result
ROUNDING = {"device", "strategy", "compile", "checkpointing", "channels_last"}  # change results in the last bits
# Of a data set that lies elsewhere now; what it holds is compared.
MOVED = {"path", "held_out", "data_dir", "classes", "workers", "cache_gb"}
LATER = {"sample", "sampler", "eval", "claim"}  # sections that training does not read

Run = RunDir | Bystander
Pending = list[dict[str, float]]  # what was logged of the steps since the last line of the metrics


def resumed(recipe: Recipe, run: Path) -> Recipe:
    """The run's own recipe, with the settings of `recipe` that may change; RunError where another one differs."""
    tables = find(str(run)).tables
    if tables is None:
        raise RunError(f"{show(run)} has no recipe.toml and cannot be resumed")
    own = recipes.resolve(tables)
    mine, theirs = recipe.tables(), own.tables()
    latent = own.train.autoencoder is not None and recipe.train.autoencoder is not None
    free = HARMLESS | ROUNDING
    for section, name in unlike(mine, theirs, free | MOVED | ({"autoencoder"} if latent else set())):
        if name in mine.get(section, {}):
            raise RunError(
                f"{show(run)} was trained with [{section}] {name} = {theirs.get(section, {}).get(name)}, not "
                f"{mine[section][name]}; resume it as it was, or start a new run from its weights with --init"
            )
    own = own.with_train(**{name: getattr(recipe.train, name) for name in free})
    if recipe.train.autoencoder != own.train.autoencoder:  # it lies elsewhere now; what it holds is compared
        own = own.with_train(autoencoder=str(find(str(recipe.train.autoencoder)).path.resolve()))
    return own.replace_part("dataset", recipe.parts["dataset"].config)


def unlike(mine: Tables, theirs: Tables, free: Collection[str]) -> Iterator[tuple[str, str]]:
    """(section, key) of all that two recipes train differently; free: keys that may differ."""
    for section in sorted((mine.keys() | theirs.keys()) - LATER):
        a, b = mine.get(section, {}), theirs.get(section, {})
        yield from ((section, name) for name in sorted((a.keys() | b.keys()) - free) if a.get(name) != b.get(name))


def known(run: Path) -> str | None:
    """The hash of the autoencoder that a run has lived with; None in pixels, or before its first checkpoint."""
    for _, path in reversed(committed(run)):
        with suppress(RunError):
            sha256 = checkpoint.open_checkpoint(path).meta.get("autoencoder")
            return sha256 if isinstance(sha256, str) else None
    return None


def save(job: Job, run: Run, step: int, seconds: float, pending: Pending, saver: Saver = NOW) -> None:
    """A checkpoint that resumes exactly, and that rebuilds its model without the data; the first process writes it."""
    method, o, world = job.method, job.recipe.train, job.world
    calibrate(job, method)
    calibrate(job, job.ema.model)
    optimizer, plain = checkpoint.pack_optimizer(job.optimizer)
    state = {"seconds": seconds, "pending": pending, "optimizer": plain, "images": len(job.data), **surroundings(job)}
    state["metrics"] = run.digest()
    state |= {"scaler": job.scaler.state_dict()} if job.scaler.is_enabled() else {}
    averages, widths = posthoc.averaged(job)
    sets = {"model": method.state_dict(), "ema": job.ema.model.state_dict(), "optim": optimizer}
    tensors = {name: parallel.collected(each, world.first) for name, each in sets.items()} | averages

    def commit(tensors: Groups, state: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        run.sync()
        checkpoint.save(run.path, step, tensors, state, meta, keep=o.keep, keep_every=o.keep_every)

    world.alone(lambda: saver.hand("checkpoint", tensors, state | widths, job.meta, commit))


def calibrate(job: Job, method: Method) -> None:
    """Set the statistics of raw or averaged weights by the first images, where the method has any: see Method.calibrate."""
    if type(method).calibrate is not Method.calibrate:
        statistics(method, job.data, job.assembly.space, job.device)


@torch.no_grad()
def statistics(method: Method, data: Any, space: Space, device: torch.device) -> None:
    """Those of the first training images."""
    items = torch.arange(min(method.calibration, len(data)), device=device)
    method.eval().calibrate(data.batch(part, part, space) for part in items.split(space.rows))


def surroundings(job: Job) -> dict[str, Any]:
    """What must be the same for a resume to be exact to the bit. Random numbers need no state: they are addressed."""
    return {
        "threads": torch.get_num_threads(),
        **versions(),
        "device": job.device.type,
        "world_size": job.world.size,
        **{name: getattr(job.recipe.train, name) for name in sorted(ROUNDING - {"device"})},
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def same_data(job: Job, stored: checkpoint.Checkpoint, run: Path) -> None:
    """RunError unless the data and the autoencoder are those the run was trained on."""
    facts = Facts.read(stored.meta["facts"])
    pairs = {
        "images": (stored.state["images"], len(job.data)),
        "shape": (facts.shape, job.assembly.facts.shape),
        "alphabet": (facts.alphabet, job.assembly.facts.alphabet),
        "classes": (facts.class_names, job.assembly.facts.class_names),
        "autoencoder": (stored.meta["autoencoder"], job.autoencoder),
    }
    for what, (then, now) in pairs.items():
        if then != now:
            raise RunError(
                f"{show(run)} was trained with {what} {show(then, 80)}, and now there is {show(now, 80)}; bring the old data back, or start a new run"
            )


def same_recipe(job: Job, stored: checkpoint.Checkpoint, run: Path) -> None:
    """RunError unless recipe.toml still says what the checkpoint was trained with."""
    mine, theirs = recipes.resolve(stored.meta["recipe"]).tables(), job.recipe.tables()
    for section, name in unlike(mine, theirs, HARMLESS | ROUNDING | MOVED | {"autoencoder"}):
        then, now = (tables.get(section, {}).get(name) for tables in (mine, theirs))
        raise RunError(
            f"{show(run / 'recipe.toml')} says [{section}] {name} = {show(now, 80)}, but the checkpoint {show(stored.path.name)} "
            f"was trained with {show(then, 80)}: it was changed; write that again, or start a new run from its weights with --init"
        )


def same_metrics(run: Run, stored: checkpoint.Checkpoint, say: Say) -> None:
    """A warning where the metrics up to the checkpoint are no longer what was written."""
    then = stored.state.get("metrics")
    if isinstance(then, dict) and run.digest(then.get("bytes")) != then:
        say(
            f"warning: metrics.jsonl is not what was written up to step {stored.step}; rows of it are lost or changed, "
            "nothing else is"
        )


def same_world(job: Job, stored: checkpoint.Checkpoint, run: Path, resize: bool) -> None:
    """RunError where there are more or fewer processes than when the run was saved, unless that is asked for."""
    then, now = stored.state.get("world_size"), job.world.size
    if then != now and not resize:
        raise RunError(
            f"{show(run)} was saved by {show(then, 20)} processes, and now there are {now}; give --devices as it was, or "
            "--resize to go on: sound, but not exact to the bit"
        )


def restore(job: Job, run: Run, say: Say, resize: bool = False) -> tuple[int, float, Pending]:
    """(step, seconds, pending) of the newest whole checkpoint, with all as it was then; the metrics after it are cut.

    The first process reads it, and tells the others.
    """
    world = job.world
    stored = world.alone(lambda: checkpoint.latest(run.path, warn=say))  # as long as hashing takes
    if not world.told(stored is not None):
        say("no whole checkpoint yet: starting over")
        run.cut(-1)
        return 0, 0.0, []
    if stored is not None:
        same_recipe(job, stored, run.path)
        same_metrics(run, stored, say)
        same_data(job, stored, run.path)
        same_world(job, stored, run.path, resize)
    state: dict[str, Any] = world.told({} if stored is None else stored.state)
    read = lambda name: world.copied(None if stored is None else stored.tensors(name))
    where = str(run.path)
    checkpoint.load_into(job.method, read("model"), where)
    for name, average in {"ema": job.ema, **job.profiles}.items():
        checkpoint.load_into(average.model, read(name), where)
    checkpoint.unpack_optimizer(job.optimizer, read("optim"), state["optimizer"])
    if job.scaler.is_enabled():
        job.scaler.load_state_dict(state["scaler"])
    for what, now in surroundings(job).items():
        if state.get(what, now) != now:
            say(f"warning: {what} was {state.get(what)} and is {now}: sound, but not exact to the bit")
    step: int = world.told(0 if stored is None else stored.step)
    run.cut(step)
    return step, state["seconds"], state["pending"]
