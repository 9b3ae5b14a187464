"""The one training loop."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from diffcli import recipe as recipes
from diffcli.engine import length, posthoc, preview
from diffcli.engine.bystander import Bystander
from diffcli.engine.evaluate import Bench, held_out_loss
from diffcli.engine.job import Job, anchored, prepare, spread
from diffcli.engine.latents import with_autoencoder
from diffcli.engine.launch import GRACE
from diffcli.engine.loggers import Loggers
from diffcli.engine.pace import settle
from diffcli.engine.progress import Bar, Say
from diffcli.engine.ranks import ALONE, World
from diffcli.engine.report import cost, curves, header
from diffcli.engine.resume import Pending, Run, calibrate, known, restore, resumed, save
from diffcli.engine.rundir import RunDir, environment
from diffcli.engine.saving import Saver
from diffcli.engine.signals import Signals
from diffcli.engine.step import step_once
from diffcli.errors import Stopped, show
from diffcli.recipe import Recipe
from diffcli.sections import EvalOptions

COPIES = 4  # of the weights in a checkpoint: raw, averaged, and two moments


@dataclass(frozen=True)
class Outlets:
    """Where a training speaks and what it leaves, beside its run."""

    console: Console
    say: Say
    signals: Signals
    saver: Saver
    loggers: Loggers


def train(
    recipe: Recipe,
    output: Path | None = None,
    *,
    resume: Path | None = None,
    resize: bool = False,
    console: Console | None = None,
    world: World = ALONE,
) -> Path:
    """Train a recipe, or go on with a run; the run folder.

    output: the run itself, by default runs/<method>/<time>; resize: go on with another number of processes than before;
    world: the processes that train together, each of which calls this. Raises DiffcliError of every kind; a run that stops
    early, by a signal or an error, can be resumed from its last checkpoint, bit for bit.
    """
    console = console or Console(stderr=True, quiet=not world.first)
    loggers = Loggers(recipe.train.loggers if world.first else "")
    if resume is None:
        recipe = with_autoencoder(
            recipe,
            lambda first: train(first, console=console, world=world),
            lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
        )
    if resume is None:
        job = prepare(anchored(recipe), world=world)
    else:
        job = prepare(resumed(recipe, resume), known(resume), world=world)
    settle(job)
    size = disk(job)
    spread(job)
    run = opened(job, output, resume, size)
    with (
        run.lock(),
        Signals(GRACE if world.size > 1 else 0.0) as signals,
        loggers,
        Saver(background=job.recipe.train.async_save) as saver,
    ):
        if resume is None:
            run.write_recipe(recipes.dumps(job.recipe))
            run.write_env(environment(job.device) | {"processes": world.size})

        def say(line: str) -> None:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
            run.log(line)

        start = restore(job, run, say, resize) if resume else (0, 0.0, [])
        if world.first:
            posthoc.cut(run.path, start[0])
        loggers.start(run.path, job.recipe.tables(), say)
        loop(job, run, Outlets(console, say, signals, saver, loggers), start)
    return run.path


def disk(job: Job) -> int:
    """Bytes of three checkpoints, and of all snapshots."""
    o, copies = job.recipe.train, len(job.profiles)
    every = length.every(o.ema_snapshots, len(job.data), o.batch_size)
    snapshots = copies * ((o.steps or 1) // every if every else 1)
    weights = sum(t.numel() * t.element_size() for t in job.method.state_dict().values())
    return (3 * (COPIES + copies) + snapshots) * weights


def opened(job: Job, output: Path | None, resume: Path | None, room: int) -> Run:
    """The run to write, which the first process makes or finds; or, in the others, to look at."""
    made = None
    if job.world.first:
        made = RunDir.open(resume) if resume else RunDir.create(output, job.recipe.method.name, room=room)
    path = job.world.told(None if made is None else made.path)
    assert path is not None
    return made or Bystander(path)


def loop(job: Job, run: Run, out: Outlets, start: tuple[int, float, Pending]) -> None:
    """From the last checkpoint, or from the start, to the last step."""
    o, images, world, say = job.recipe.train, len(job.data), job.world, out.say
    steps = o.steps or 1
    spans = (o.sample_every, o.save_every, o.eval_every, o.ema_snapshots, o.warmup)
    sample_every, save_every, eval_every, snap_every, warmup = (
        length.every(span, images, o.batch_size) for span in spans
    )
    step, before, pending = start
    say(header(job, steps))
    if o.strategy == "fsdp" and world.size == 1:
        say("note: --strategy fsdp has nothing to share out on one device; give --devices")
    if step == 0:
        begin(job, run, out.loggers)
    elif step < steps and sample_every and step % sample_every == 0:
        previews(job, run, step, out.loggers)  # a kill may have come between the checkpoint and them
    clock = time.perf_counter() - before
    where = str(run.path)
    with Bar("train", steps, out.console, run.log, done=step) as bar:
        while step < steps:
            began = time.perf_counter()
            pending.append(step_once(job, step, steps, warmup))
            step += 1
            out.saver.check()
            speed, row = o.batch_size / (time.perf_counter() - began), dict[str, Any]()
            if length.due(step, o.log_every, steps):
                row, pending = mean(pending), []
            stop = world.agreed(out.signals.received, job.device)
            stop = stop if step < steps else None  # the last step is a checkpoint of its own
            if not stop and length.due(step, eval_every, steps):
                row["held_out"] = held_out(job, where, step)
            if row:
                seconds = time.perf_counter() - clock
                row = {"step": step, "images": step * o.batch_size, **row, **cost(job, seconds, speed)}
                run.append(row)
                out.loggers.log(row)
            bar.update(step, f"loss {row['loss']:.4f}  {speed:.0f} images/s" if "loss" in row else None)
            if job.profiles and length.due(step, snap_every, steps):
                posthoc.snapshot(job, run.path, step, out.saver)
            if saved := stop or length.due(step, save_every, steps):
                save(job, run, step, time.perf_counter() - clock, pending, out.saver)
            if stop:
                world.alone(out.saver.wait)
                raise Stopped(
                    f"signal {stop} at step {step} of {steps}: saved; go on with --resume {show(where)}", stop
                )
            if step < steps and sample_every and step % sample_every == 0:
                if not saved:  # the average has the statistics of the raw weights, if any
                    calibrate(job, job.ema.model)
                previews(job, run, step, out.loggers)
    world.alone(out.saver.wait)
    finish(job, run, steps, time.perf_counter() - clock, say)
    out.loggers.pictures(steps, (run.path / "samples").glob("final*"))


def begin(job: Job, run: Run, loggers: Loggers) -> None:
    """The pictures of the data, and what is worth knowing of the method before it has learned anything."""
    shown = bench(job, str(run.path), 0)

    def work() -> None:
        preview.opening(shown, run.path)
        if found := shown.model.method.diagnose(job.data, job.device):
            run.append({"step": 0, **found})
            loggers.log({"step": 0, **found})

    job.world.alone(work)


def previews(job: Job, run: Run, step: int, loggers: Loggers) -> None:
    """The pictures of a step."""
    shown, drawn = bench(job, str(run.path), step), run.path / "samples" / f"step-{step:08d}"

    def work() -> None:
        preview.grid(shown.model, drawn)
        preview.plots(shown, drawn)
        loggers.pictures(step, drawn.parent.glob(f"{drawn.name}*"))

    job.world.alone(work)


def held_out(job: Job, where: str, step: int) -> float:
    """The loss on held-out images, of which each process takes a share; of shared weights the first takes all."""
    model = job.model(where, step)
    if job.shown is None:
        return held_out_loss(model, job.held_out, world=job.world)
    found = job.world.alone(lambda: held_out_loss(model, job.held_out))
    return job.world.told(0.0 if found is None else found)


def mean(pending: list[dict[str, float]]) -> dict[str, float]:
    """What was logged, averaged over the steps; the learning rate is the last."""
    averaged = {name: sum(logged[name] for logged in pending) / len(pending) for name in pending[0]}
    return averaged | {"lr": pending[-1]["lr"]}


def bench(job: Job, where: str, step: int) -> Bench:
    """The averaged weights on the bench, with the held-out data that are open already."""
    options = (job.recipe.spec.eval or EvalOptions)()
    return Bench(job.model(where, step), job.recipe, options, test=job.held_out)


def finish(job: Job, run: Run, steps: int, seconds: float, say: Say) -> None:
    """The pictures, curves and summary of a whole run."""
    shown = bench(job, str(run.path), steps)
    job.world.alone(lambda: summarize(job, run, shown, seconds, say))


def summarize(job: Job, run: Run, shown: Bench, seconds: float, say: Say) -> None:
    """What `finish` leaves."""
    steps = shown.model.step
    sampling = preview.final(shown.model, run.path)
    preview.plots(shown, run.path / "samples" / "final")
    rows = run.rows()
    curves(rows, run.path / "loss")
    held_out = {row["held_out"]: row["step"] for row in reversed(rows) if "held_out" in row}
    last = rows[-1] if rows else {}  # they may be lost, as a warning has told
    summary = {
        "steps": steps,
        "images": steps * job.recipe.train.batch_size,
        "seconds": round(seconds, 1),
        "seconds_per_epoch": round(seconds / steps * length.epoch(len(job.data), job.recipe.train.batch_size), 3),
        "loss": last.get("loss"),
        "held_out": last.get("held_out"),
        "best_step": held_out[min(held_out)] if held_out else None,
        "parameters": job.parameters,
        "device": str(job.device),
        "processes": job.world.size,
        "sampling": sampling,
        **shown.model.method.diagnose(job.data, job.device),
    }
    run.write_summary(summary)
    say(f"trained {steps} steps in {seconds:.0f} s; held-out loss {last.get('held_out', float('nan')):.4f}")
