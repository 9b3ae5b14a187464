"""The one training loop."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from diffcli import recipe as recipes
from diffcli.engine import length, preview
from diffcli.engine.evaluate import Bench, held_out_loss
from diffcli.engine.job import Job, anchored, prepare, settle, step_once
from diffcli.engine.latents import with_autoencoder
from diffcli.engine.progress import Bar, Say
from diffcli.engine.report import curves
from diffcli.engine.resume import calibrate, known, restore, resumed, save
from diffcli.engine.rundir import RunDir, environment
from diffcli.engine.signals import Signals
from diffcli.errors import Stopped, show
from diffcli.recipe import Recipe
from diffcli.sections import EvalOptions

COPIES = 4  # of the weights in a checkpoint: raw, averaged, and two moments


def train(
    recipe: Recipe,
    output: Path | None = None,
    *,
    resume: Path | None = None,
    console: Console | None = None,
) -> Path:
    """Train a recipe, or go on with a run; the run folder.

    output: the run itself, by default runs/<method>/<time>. Raises DiffcliError of every kind; a run that stops early, by
    a signal or an error, can be resumed from its last checkpoint, bit for bit.
    """
    console = console or Console(stderr=True)
    if resume is None:
        recipe = with_autoencoder(
            recipe,
            lambda first: train(first, console=console),
            lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
        )
    job = prepare(anchored(recipe)) if resume is None else prepare(resumed(recipe, resume), known(resume))
    settle(job)
    size = COPIES * sum(t.numel() * t.element_size() for t in job.method.state_dict().values())
    run = RunDir.open(resume) if resume else RunDir.create(output, job.recipe.method.name, room=3 * size)
    with run.lock(), Signals() as signals:
        if resume is None:
            run.write_recipe(recipes.dumps(job.recipe))
            run.write_env(environment(job.device))

        def say(line: str) -> None:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
            run.log(line)

        loop(job, run, signals, console, say, resume=resume is not None)
    return run.path


def loop(job: Job, run: RunDir, signals: Signals, console: Console, say: Say, *, resume: bool) -> None:
    """From the last checkpoint, or from the start, to the last step."""
    o, images = job.recipe.train, len(job.data)
    steps = o.steps or 1
    spans = (
        length.every(span, images, o.batch_size) for span in (o.sample_every, o.save_every, o.eval_every, o.warmup)
    )
    sample_every, save_every, eval_every, warmup = spans
    step, before, pending = restore(job, run, say) if resume else (0, 0.0, [])
    say(header(job, steps))
    if step == 0:
        preview.opening(bench(job, str(run.path), 0), run.path)
        if found := job.method.diagnose(job.data, job.device):
            run.append({"step": 0, **found})
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
            stop = signals.received if step < steps else None  # the last step is a checkpoint of its own
            if not stop and length.due(step, eval_every, steps):
                row["held_out"] = held_out_loss(job.model(where, step), job.held_out)
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
                drawn = run.path / "samples" / f"step-{step:08d}"
                preview.grid(job.model(where, step), drawn)
                preview.plots(bench(job, where, step), drawn)
    finish(job, run, steps, time.perf_counter() - clock, say)


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


def finish(job: Job, run: RunDir, steps: int, seconds: float, say: Say) -> None:
    """The pictures, curves and summary of a whole run."""
    sampling = preview.final(job.model(str(run.path), steps), run.path)
    preview.plots(bench(job, str(run.path), steps), run.path / "samples" / "final")
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
        "sampling": sampling,
        **job.ema.model.diagnose(job.data, job.device),
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
        f"{facts.kind}. {steps} steps of {r.train.batch_size} on {job.device}"
    )
    return "\n".join([line, *job.method.notes(job.data)])
