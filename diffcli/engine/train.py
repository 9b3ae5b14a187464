"""The one training loop. A step is a pure function of (recipe, weights, step number), so a resume changes nothing."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from diffcli import recipe as recipes
from diffcli.core.method import Batch
from diffcli.core.random import Blocks, key
from diffcli.engine import checkpoint, length, preview
from diffcli.engine.assemble import Assembly, Facts, assemble, open_data
from diffcli.engine.ema import EMA
from diffcli.engine.evaluate import held_out_loss
from diffcli.engine.load import Model, autoencoder, load
from diffcli.engine.precision import autocast, device
from diffcli.engine.progress import Bar
from diffcli.engine.report import curves
from diffcli.engine.rundir import RunDir, environment
from diffcli.engine.signals import Signals
from diffcli.errors import NonFinite, PluginError, RunError, Stopped, show
from diffcli.recipe import Recipe

CALIBRATION = 256  # images that a method's own statistics are taken on
LOSES_NOTHING = {"keep", "keep_every", "log_every", "sample_every", "save_every", "eval_every"}  # may differ on resume


@dataclass
class Job:
    """Everything a step needs."""

    assembly: Assembly
    data: Any
    held_out: Any
    device: torch.device
    ema: EMA
    optimizer: torch.optim.AdamW
    autoencoder: str | None  # sha256 of its weights

    @property
    def recipe(self) -> Recipe:
        return self.assembly.recipe

    def model(self, where: str, step: int) -> Model:
        """The averaged weights as sampling and evaluation see them."""
        a = self.assembly
        return Model(a.recipe, self.ema.model, a.space, a.facts, self.device, where, step, "ema", "")


def prepare(recipe: Recipe, init: str | None = None) -> Job:
    """Put everything together and try the first batch; nothing is written. init: a run to take the weights of."""
    o = recipe.train
    on = device(o.device)
    data = open_data(recipe, "train")
    encoder = load(o.autoencoder, device=o.device) if o.autoencoder else None
    frozen = autoencoder(recipe, {}, o.device) if encoder else None
    assembly = assemble(recipe, Facts.of(data), frozen)
    method = assembly.method
    if init is not None:
        source = load(init, raw=True, device="cpu")
        checkpoint.load_into(method, source.method.state_dict(), f"--init {show(init)}")
    method.to(on)
    betas = (o.beta1, o.beta2)
    fused = {"fused": True} if on.type in ("cpu", "cuda") else {}
    optimizer = torch.optim.AdamW(list(method.parameter_groups()), o.lr, betas, weight_decay=o.weight_decay, **fused)
    for group in optimizer.param_groups:
        group["scale"] = group["lr"] / o.lr if o.lr else 1.0
    data = method.data(data).to(on)
    job = Job(
        assembly,
        data,
        open_data(recipe, "test").to(on),
        on,
        EMA(method, o.ema),
        optimizer,
        encoder.sha256 if encoder else None,
    )
    first_batch(job)
    return job


def first_batch(job: Job) -> None:
    """Hold the plugins to their word on one batch, before anything is created."""
    losses, name = losses_of(job, torch.arange(min(job.recipe.train.batch_size, 16)), 0), job.recipe.method.name
    if not isinstance(losses, dict) or "loss" not in losses:
        raise PluginError(
            f"method {name}: loss() gave no entry named 'loss'; it must return a dict of tensors with one"
        )
    for what, value in losses.items():
        if not isinstance(value, Tensor) or value.shape != ():
            raise PluginError(f"method {name}: loss() gave {what} that is no 0-dim tensor; take its mean")
    if not bool(torch.isfinite(losses["loss"])):
        raise NonFinite(
            f"the loss of {name} is {float(losses['loss'])} on the first batch; check the data and the recipe"
        )


def losses_of(job: Job, index: Tensor, step: int) -> dict[str, Tensor]:
    """The losses on these positions of the stream; a layer's own dropout follows from (seed, step)."""
    o, method = job.recipe.train, job.assembly.method
    index = index.to(job.device)
    batch: Batch = job.data.batch(job.data.items(o.seed, index), index, job.assembly.space)
    torch.manual_seed(key(o.seed, "dropout", int(index[0])))
    method.train()
    with autocast(o.precision, job.device):
        losses: dict[str, Tensor] = method.loss(batch, Blocks(o.seed, index, o.batch_size))
    return losses


def step_once(job: Job, step: int, steps: int, warmup: int) -> dict[str, float]:
    """One optimizer step; what is logged of it. NonFinite before any weight is touched."""
    o, method = job.recipe.train, job.assembly.method
    index = torch.arange(step * o.batch_size, (step + 1) * o.batch_size)
    logged: dict[str, float] = {}
    job.optimizer.zero_grad()
    for part in index.chunk(o.accumulate):
        losses, share = losses_of(job, part, step), len(part) / o.batch_size
        (losses["loss"] * share).backward()
        for name, value in losses.items():
            logged[name] = logged.get(name, 0.0) + float(value.detach()) * share
    if os.environ.get("DIFFCLI_TEST") == "1" and os.environ.get("DIFFCLI_TEST_NAN_AT") == str(step):
        logged["loss"] = float("nan")
    norm = torch.nn.utils.clip_grad_norm_(method.parameters(), o.clip_grad or float("inf"))
    logged["grad_norm"] = float(norm)
    if bad := [name for name, value in logged.items() if value - value != 0]:
        tensors = [
            name for name, p in method.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()
        ]
        where = f"; gradients of {', '.join(tensors[:3])}{' ...' if len(tensors) > 3 else ''}" if tensors else ""
        raise NonFinite(
            f"{' and '.join(bad)} not finite at step {step}{where}: lower --lr, or --clip-grad, or use fp32; resume goes on from the last checkpoint"
        )
    lr = length.learning_rate(o, step, steps, warmup)
    for group in job.optimizer.param_groups:
        group["lr"] = lr * group["scale"]
    job.optimizer.step()
    job.ema.update(method, step)
    return {**logged, "lr": lr}


def pace(job: Job) -> float:
    """Seconds a step, measured on a copy that is thrown away."""
    copy = prepare(replace_train(job.recipe, budget=None, steps=1))
    for warm in range(3):
        step_once(copy, warm, 100, 0)
    began, done = time.perf_counter(), 0
    while done < 20 or (time.perf_counter() - began < 2 and done < 200):
        step_once(copy, 3 + done, 1000, 0)
        done += 1
    return (time.perf_counter() - began) / done


def replace_train(recipe: Recipe, **changes: Any) -> Recipe:
    return replace(recipe, train=replace(recipe.train, **changes))


def settle(job: Job) -> None:
    """Turn epochs or a budget into steps, and write them into the recipe: from here on it is an ordinary run."""
    o = job.recipe.train
    steps = o.steps
    if o.budget is not None:
        steps = max(1, int(0.95 * length.seconds(o.budget) / pace(job)))
    elif o.epochs is not None:
        steps = max(1, round(o.epochs * length.epoch(len(job.data), o.batch_size)))
    job.assembly = replace(job.assembly, recipe=replace_train(job.recipe, steps=steps, epochs=None, budget=None))


def train(
    recipe: Recipe,
    output: Path | None = None,
    *,
    resume: Path | None = None,
    init: str | None = None,
    console: Console | None = None,
) -> Path:
    """Train a recipe, or go on with a run; the run folder.

    output: the run itself, by default runs/<method>/<time>. Raises DiffcliError of every kind; a run that stops early, by
    a signal or an error, can be resumed from its last checkpoint, bit for bit.
    """
    console = console or Console(stderr=True)
    if resume is not None:
        recipe = resumed(recipe, resume)
    job = prepare(recipe, init)
    settle(job)
    size = 4 * sum(p.numel() * p.element_size() for p in job.assembly.method.parameters())
    run = RunDir.open(resume) if resume is not None else RunDir.create(output, job.recipe.method.name, room=3 * size)
    with run.lock(), Signals() as signals:
        if resume is None:
            run.write_recipe(recipes.dumps(job.recipe))
            run.write_env(environment(job.device))
        loop(job, run, signals, console, resume=resume is not None)
    return run.path


def resumed(recipe: Recipe, run: Path) -> Recipe:
    """The run's own recipe, and the few settings that may change without changing the result."""
    from diffcli.engine.rundir import find

    tables = find(str(run)).tables
    if tables is None:
        raise RunError(f"{show(run)} has no recipe.toml and cannot be resumed")
    own = recipes.resolve(tables)
    mine, theirs = recipe.tables(), own.tables()
    harmless = {k: v for k, v in mine["train"].items() if k in LOSES_NOTHING}
    for section in mine.keys() | theirs.keys():
        for name in mine.get(section, {}).keys() | theirs.get(section, {}).keys():
            a, b = mine.get(section, {}).get(name), theirs.get(section, {}).get(name)
            if a != b and name not in LOSES_NOTHING and section not in ("sample", "sampler", "claim"):
                raise RunError(
                    f"{show(run)} was trained with [{section}] {name} = {b}, not {a}; resume it as it was, or start a new run"
                )
    return replace_train(own, **harmless)


def loop(job: Job, run: RunDir, signals: Signals, console: Console, *, resume: bool) -> None:
    """From the last checkpoint, or from the start, to the last step."""
    o, method = job.recipe.train, job.assembly.method
    steps, images = o.steps or 1, len(job.data)
    say = lambda line: (console.print(line, markup=False, highlight=False, soft_wrap=True), run.log(line))
    span = {k: length.every(getattr(o, f"{k}_every"), images, o.batch_size) for k in ("sample", "save", "eval")}
    warmup = length.every(o.warmup, images, o.batch_size)
    step, before, pending = restore(job, run, say) if resume else (0, 0.0, [])
    say(header(job, steps))
    if step == 0 and (found := method.diagnose(job.data, job.device)):
        run.append({"step": 0, **found})
    began = time.perf_counter()
    elapsed = lambda: before + time.perf_counter() - began
    saved = step
    with Bar("train", steps, console, run.log, done=step) as bar:
        while step < steps:
            tick = time.perf_counter()
            pending.append(step_once(job, step, steps, warmup))
            step += 1
            speed = o.batch_size / (time.perf_counter() - tick)
            row: dict[str, Any] = {}
            if step % o.log_every == 0 or step == steps:
                row = {name: sum(p[name] for p in pending) / len(pending) for name in pending[0]} | {
                    "lr": pending[-1]["lr"]
                }
                pending = []
            if length.due(step, span["eval"], steps):
                row["held_out"] = held_out_loss(job.model(str(run.path), step), job.held_out)
            if row:
                run.append(
                    {
                        "step": step,
                        "images": step * o.batch_size,
                        **row,
                        "seconds": round(elapsed(), 3),
                        "images_per_second": round(speed, 1),
                        "memory": memory(job.device),
                    }
                )
                bar.update(step, f"loss {row.get('loss', float('nan')):.4f}  {speed:.0f} images/s")
            if length.due(step, span["sample"], steps) and span["sample"] and step < steps:
                preview.grid(job.model(str(run.path), step), run.path / "samples" / f"step-{step:08d}.png")
            stop = signals.received
            if length.due(step, span["save"], steps) or stop:
                run.sync()
                save(job, run, step, elapsed(), pending)
                saved = step
            if stop and step < steps:
                raise Stopped(
                    f"stopped by a signal at step {step} of {steps}, saved; go on with --resume {show(run.path)}", stop
                )
    if saved == steps:
        finish(job, run, steps, elapsed(), say)


def save(job: Job, run: RunDir, step: int, seconds: float, pending: list[dict[str, float]]) -> None:
    """A checkpoint that resumes exactly, and that rebuilds itself without the data."""
    method, o = job.assembly.method, job.recipe.train
    items = torch.arange(min(CALIBRATION, len(job.data)), device=job.device)
    with torch.no_grad():
        for each in (method, job.ema.model):
            each.eval().calibrate([job.data.batch(items, items, job.assembly.space)])
    optimizer, plain = checkpoint.pack_optimizer(job.optimizer)
    state = {
        "step": step,
        "images": step * o.batch_size,
        "seconds": seconds,
        "pending": pending,
        "optimizer": plain,
        **surroundings(job),
    }
    meta = {
        "recipe": job.recipe.tables(),
        "facts": vars(job.assembly.facts),
        "autoencoder": job.autoencoder,
        "step": step,
    }
    tensors = {"model": method.state_dict(), "ema": job.ema.model.state_dict(), "optim": optimizer}
    checkpoint.save(run.path, step, tensors, state, meta, keep=o.keep, keep_every=o.keep_every)


def surroundings(job: Job) -> dict[str, Any]:
    """What must be the same for a resume to be exact to the bit."""
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": job.device.type,
        "world_size": 1,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def restore(job: Job, run: RunDir, say: Any) -> tuple[int, float, list[dict[str, float]]]:
    """Everything as it was at the newest whole checkpoint; the metrics after it are cut."""
    stored = checkpoint.latest(run.path, warn=say)
    if stored is None:
        say("no whole checkpoint yet: starting over")
        run.cut(0)
        return 0, 0.0, []
    checkpoint.load_into(job.assembly.method, stored.tensors("model"), str(stored.path))
    checkpoint.load_into(job.ema.model, stored.tensors("ema"), str(stored.path))
    checkpoint.unpack_optimizer(job.optimizer, stored.tensors("optim"), stored.state["optimizer"])
    for what, now in surroundings(job).items():
        if stored.state.get(what) != now:
            say(
                f"warning: {what} was {stored.state.get(what)} and is {now}: the resume is sound but not exact to the bit"
            )
    run.cut(stored.step)
    return stored.step, stored.state["seconds"], stored.state["pending"]


def finish(job: Job, run: RunDir, steps: int, seconds: float, say: Any) -> None:
    """The pictures, curves and summary of a whole run."""
    model = job.model(str(run.path), steps)
    drawn = preview.final(model, run.path)
    rows = run.rows()
    curves(rows, run.path / "loss")
    found = job.ema.model.diagnose(job.data, job.device)
    held_out = [r["held_out"] for r in rows if r.get("held_out") is not None]
    per_epoch = seconds / steps * length.epoch(len(job.data), job.recipe.train.batch_size)
    summary = {
        "steps": steps,
        "images": steps * job.recipe.train.batch_size,
        "seconds": round(seconds, 1),
        "seconds_per_epoch": round(per_epoch, 3),
        "loss": rows[-1].get("loss"),
        "held_out": held_out[-1] if held_out else None,
        "best_step": min((r["held_out"], r["step"]) for r in rows if r.get("held_out") is not None)[1]
        if held_out
        else None,
        "parameters": parameters(job),
        "device": str(job.device),
        "sampling": drawn,
        **found,
    }
    run.write_summary(summary)
    say(f"trained {steps} steps in {seconds:.0f} s; held-out loss {summary['held_out']:.4f}")


def parameters(job: Job) -> int:
    return sum(p.numel() for p in job.assembly.method.parameters())


def memory(on: torch.device) -> float:
    """Peak memory of the device, or of the process, in MiB."""
    if on.type == "cuda":
        return round(torch.cuda.max_memory_allocated(on) / 2**20, 1)
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)


def header(job: Job, steps: int) -> str:
    """What is trained on what, with what was chosen for the user."""
    r, facts = job.recipe, job.assembly.facts
    model = ", ".join(
        f"{k} {v}" for k, v in r.tables().get("model", {}).items() if k in ("channels", "multipliers", "attention")
    )
    kinds = " ".join(r.parts[k].name for k in ("model", "schedule") if k in r.parts)
    return (
        f"{r.method.name}: {kinds} ({model}; {parameters(job):,} parameters) on {facts.split}, {len(job.data)} images "
        f"{'x'.join(map(str, facts.shape))}; {steps} steps of {r.train.batch_size} on {job.device}"
    )
