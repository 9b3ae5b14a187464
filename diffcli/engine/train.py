"""The one training loop."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from diffcli import recipe as recipes
from diffcli.engine import length, preview
from diffcli.engine.bystander import Bystander
from diffcli.engine.evaluate import Bench, held_out_loss
from diffcli.engine.job import Job, anchored, prepare, spread
from diffcli.engine.latents import with_autoencoder
from diffcli.engine.pace import settle
from diffcli.engine.progress import Bar, Say
from diffcli.engine.ranks import ALONE, World
from diffcli.engine.report import curves
from diffcli.engine.resume import Pending, Run, calibrate, known, restore, resumed, save
from diffcli.engine.rundir import RunDir, environment
from diffcli.engine.signals import Signals
from diffcli.engine.step import step_once
from diffcli.errors import Stopped, show
from diffcli.recipe import Recipe
from diffcli.sections import EvalOptions

COPIES = 4  # of the weights in a checkpoint: raw, averaged, and two moments


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
    console = console or Console(stderr=True)
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
    size = COPIES * sum(t.numel() * t.element_size() for t in job.method.state_dict().values())
    spread(job)
    run = opened(job, output, resume, 3 * size)
    with run.lock(), Signals() as signals:
        if resume is None:
            run.write_recipe(recipes.dumps(job.recipe))
            run.write_env(environment(job.device) | {"processes": world.size})

        def say(line: str) -> None:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
            run.log(line)

        start = restore(job, run, say, resize) if resume else (0, 0.0, [])
        loop(job, run, signals, console, say, start)
    return run.path


def opened(job: Job, output: Path | None, resume: Path | None, room: int) -> Run:
    """The run to write, which the first process makes or finds; or, in the others, to look at."""
    made = None
    if job.world.first:
        made = RunDir.open(resume) if resume else RunDir.create(output, job.recipe.method.name, room=room)
    path = job.world.told(None if made is None else made.path)
    assert path is not None
    return made or Bystander(path)


def loop(job: Job, run: Run, signals: Signals, console: Console, say: Say, start: tuple[int, float, Pending]) -> None:
    """From the last checkpoint, or from the start, to the last step."""
    o, images, world = job.recipe.train, len(job.data), job.world
    steps = o.steps or 1
    spans = (
        length.every(span, images, o.batch_size) for span in (o.sample_every, o.save_every, o.eval_every, o.warmup)
    )
    sample_every, save_every, eval_every, warmup = spans
    step, before, pending = start
    say(header(job, steps))
    if step == 0:
        begin(job, run)
    clock = time.perf_counter() - before
    where = str(run.path)
    with Bar("train", steps, console, run.log, done=step) as bar:
        while step < steps:
            began = time.perf_counter()
            pending.append(step_once(job, step, steps, warmup))
            step += 1
            speed, row = o.batch_size / (time.perf_counter() - began), dict[str, Any]()
            if length.due(step, o.log_every, steps):
                row, pending = mean(pending), []
            stop = (
                world.agreed(signals.received, job.device) if step < steps else None
            )  # the last step is a checkpoint of its own
            if not stop and length.due(step, eval_every, steps):
                row["held_out"] = held_out(job, where, step)
            if row:
                seconds = time.perf_counter() - clock
                run.append({"step": step, "images": step * o.batch_size, **row, **cost(job, seconds, speed)})
            bar.update(step, f"loss {row['loss']:.4f}  {speed:.0f} images/s" if "loss" in row else None)
            if saved := stop or length.due(step, save_every, steps):
                save(job, run, step, time.perf_counter() - clock, pending)
            if stop:
                raise Stopped(
                    f"signal {stop} at step {step} of {steps}: saved; go on with --resume {show(where)}", stop
                )
            if step < steps and sample_every and step % sample_every == 0:
                if not saved:  # the average has the statistics of the raw weights, if any
                    calibrate(job, job.ema.model)
                previews(job, run, step)
    finish(job, run, steps, time.perf_counter() - clock, say)


def begin(job: Job, run: Run) -> None:
    """The pictures of the data, and what is worth knowing of the method before it has learned anything."""
    shown = bench(job, str(run.path), 0)

    def work() -> None:
        preview.opening(shown, run.path)
        if found := shown.model.method.diagnose(job.data, job.device):
            run.append({"step": 0, **found})

    job.world.alone(work)


def previews(job: Job, run: Run, step: int) -> None:
    """The pictures of a step."""
    shown, drawn = bench(job, str(run.path), step), run.path / "samples" / f"step-{step:08d}"

    def work() -> None:
        preview.grid(shown.model, drawn)
        preview.plots(shown, drawn)

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


def cost(job: Job, seconds: float, speed: float) -> dict[str, float]:
    """What training took so far: seconds, images a second in the last step, and the peak of memory in MiB."""
    if job.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(job.device) / 2**20
    else:
        import resource

        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"seconds": round(seconds, 3), "images_per_second": round(speed, 1), "memory": round(memory, 1)}


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
    last = rows[-1]
    summary = {
        "steps": steps,
        "images": steps * job.recipe.train.batch_size,
        "seconds": round(seconds, 1),
        "seconds_per_epoch": round(seconds / steps * length.epoch(len(job.data), job.recipe.train.batch_size), 3),
        "loss": last["loss"],
        "held_out": last["held_out"],
        "best_step": held_out[min(held_out)],
        "parameters": job.parameters,
        "device": str(job.device),
        "processes": job.world.size,
        "sampling": sampling,
        **shown.model.method.diagnose(job.data, job.device),
    }
    run.write_summary(summary)
    say(f"trained {steps} steps in {seconds:.0f} s; held-out loss {summary['held_out']:.4f}")


def header(job: Job, steps: int) -> str:
    """What is trained on what, with what was chosen for the user."""
    r, facts = job.recipe, job.assembly.facts
    network = r.tables().get("model", {})
    chosen = ", ".join(
        f"{k} {network[k]}" for k in ("channels", "multipliers", "attention", "width", "depth") if k in network
    )
    line = (
        f"{network.get('name', r.method.name)}: {chosen}; {job.parameters:,} parameters. {job.data.split}: {len(job.data)} "
        f"{facts.kind}. {steps} steps of {r.train.batch_size} on {spread_over(job)}"
    )
    return "\n".join([line, *job.method.notes(job.data)])


def spread_over(job: Job) -> str:
    """The device, or how many processes share the work."""
    return (
        str(job.device)
        if job.world.size == 1
        else f"{job.world.size} x {job.device.type} ({job.recipe.train.strategy})"
    )
