"""What a training step is: a pure function of (recipe, weights, step number), so that a resume changes nothing."""

from __future__ import annotations

import copy
import os
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from diffcli.core.method import Batch, Method
from diffcli.core.random import Blocks, key
from diffcli.core.space import Autoencoder
from diffcli.engine import checkpoint, length, preview
from diffcli.engine.assemble import Assembly, Facts, assemble, open_data
from diffcli.engine.ema import EMA
from diffcli.engine.encoded import encoded
from diffcli.engine.load import Model, autoencoder, load
from diffcli.engine.optimizer import clip, optimizer_of
from diffcli.engine.precision import autocast, device
from diffcli.engine.rundir import find
from diffcli.errors import NonFinite, PluginError, UsageError, show
from diffcli.recipe import Recipe, resolve

WARM, TIMED, ENOUGH = 3, 40, 3.0  # steps not timed; steps, or seconds, that are
PICTURES = 0.95  # of a budget is for steps, the rest for pictures and checkpoints


@dataclass
class Job:
    """Everything a step needs. autoencoder: SHA-256 of the weights whose latents the method lives in."""

    assembly: Assembly
    data: Any
    held_out: Any
    device: torch.device
    ema: EMA
    optimizer: torch.optim.AdamW
    autoencoder: str | None

    @property
    def recipe(self) -> Recipe:
        return self.assembly.recipe

    @property
    def method(self) -> Method:
        return self.assembly.method

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.method.parameters())

    def model(self, where: str, step: int) -> Model:
        """The averaged weights as sampling and evaluation see them."""
        a = self.assembly
        return Model(a.recipe, self.ema.model, a.space, a.facts, self.device, where, step, "ema", "")


def prepare(recipe: Recipe, sha256: str | None = None, first: Recipe | None = None) -> Job:
    """Put everything together and try the first batch and the previews; nothing is written.

    sha256: of the autoencoder that the weights to come have known. A latent method that is given none, or a method for
    which `first` is yet to be trained, gets an untrained one: trials, speed and laws need no better.
    """
    o = recipe.train
    on = device(o.device)
    data = open_data(recipe, "train")
    facts = Facts.of(data)
    encoder = autoencoder(recipe, facts, o.device, sha256)
    if first is None and recipe.spec.autoencoder:
        first = resolve({"method": {"name": recipe.spec.autoencoder}})
    assembly = assemble(recipe, facts, encoder.method if encoder else first and frozen(first, facts, on))
    method = assembly.method
    if o.init is not None:
        begin_from(load(o.init, raw=True, device="cpu"), assembly, f"--init {show(o.init)}")
    method.to(on)
    data, held_out = method.data(data).to(on), method.view(open_data(recipe, "test")).to(on)
    data, held_out = (encoded(each, assembly.space, on, o.cache_latents) for each in (data, held_out))
    assembly = replace(assembly, facts=replace(assembly.facts, split=data.split))  # with what the method does to it
    job = Job(assembly, data, held_out, on, EMA(method, o.ema), optimizer_of(method, o, on), encoder and encoder.sha256)
    first_batch(job)
    preview.plan(job.model("the model", 0), held_out)
    return job


def frozen(recipe: Recipe, facts: Facts, on: torch.device) -> Autoencoder:
    """The autoencoder of a recipe, untrained."""
    return cast(Autoencoder, assemble(recipe, facts).method.to(on).eval().requires_grad_(False))


def begin_from(model: Model, assembly: Assembly, what: str) -> None:
    """The weights of another run. UsageError where they know other characters: their shapes may fit all the same."""
    theirs, ours = model.facts.alphabet, assembly.facts.alphabet
    if theirs and ours and theirs != ours:
        raise UsageError(
            f"{what} knows other characters than this text has; give it a text of the same, or start afresh"
        )
    checkpoint.load_into(assembly.method, model.method.state_dict(), what)


def first_batch(job: Job) -> None:
    """Hold the plugins to their word on one batch, before anything is created."""
    index, name = torch.arange(min(job.recipe.train.batch_size, 16)), job.recipe.method.name
    batch, shape = batch_of(job, index.to(job.device)), tuple(job.assembly.space.shape)
    source, classes = f"data set {job.assembly.facts.name}", job.assembly.facts.classes
    if (
        not isinstance(batch.x, Tensor)
        or tuple(batch.x.shape[1:]) != shape
        or batch.x.dtype not in (torch.float32, torch.int64)
    ):
        raise PluginError(
            f"{source}: batch() gave x that is no float32 or int64 tensor of (B, {', '.join(map(str, shape))})"
        )
    if not bool(torch.isfinite(batch.x).all()):
        raise NonFinite(f"{source}: the first batch is not finite; check the files")
    if batch.label is not None and classes and not bool(((batch.label >= -1) & (batch.label < classes)).all()):
        raise PluginError(f"{source}: batch() gave labels beyond its {classes} classes")
    kept = [(buffer, buffer.clone()) for buffer in job.method.buffers()]
    losses = losses_of(job, index)
    for buffer, before in kept:  # what a method counts as it trains, it has not begun to count
        buffer.copy_(before)
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


def batch_of(job: Job, index: Tensor) -> Batch:
    """The batch at these positions of the stream."""
    batch: Batch = job.data.batch(job.data.items(job.recipe.train.seed, index), index, job.assembly.space)
    return batch


def losses_of(job: Job, index: Tensor) -> dict[str, Tensor]:
    """The losses at these positions of the stream; a layer's own dropout follows from (seed, position) too."""
    o, index = job.recipe.train, index.to(job.device)
    batch, seed = batch_of(job, index), key(o.seed, "dropout", int(index[0]))
    torch.manual_seed(seed)  # the global streams have no state to save: they begin anew with each batch
    random.seed(seed)
    np.random.seed(seed)
    job.method.train()
    with autocast(o.precision, job.device):
        return job.method.loss(batch, Blocks(o.seed, index, o.batch_size))


def step_once(job: Job, step: int, steps: int, warmup: int) -> dict[str, float]:
    """One optimizer step, the `step`-th of `steps`; what is logged of it. NonFinite before any weight is touched."""
    o = job.recipe.train
    logged: dict[str, float] = {}
    job.optimizer.zero_grad()
    for part in torch.arange(step * o.batch_size, (step + 1) * o.batch_size).chunk(o.accumulate):
        losses, share = losses_of(job, part), len(part) / o.batch_size
        (losses["loss"] * share).backward()
        for name, value in losses.items():
            logged[name] = logged.get(name, 0.0) + float(value.detach()) * share
    if os.environ.get("DIFFCLI_TEST") == "1" and os.environ.get("DIFFCLI_TEST_NAN_AT") == str(step + 1):
        next(job.method.parameters()).grad.fill_(float("nan"))  # type: ignore[union-attr]
    norm = torch.nn.utils.get_total_norm([p.grad for p in job.method.parameters() if p.grad is not None])
    logged["grad_norm"] = float(norm)
    refuse_non_finite(job.method, logged, step + 1)
    clip(job.optimizer, o, norm)
    logged["lr"] = length.learning_rate(o, step, steps, warmup)
    for group in job.optimizer.param_groups:
        group["lr"] = logged["lr"] * group["scale"]
    job.optimizer.step()
    job.ema.update(job.method, step)
    return logged


def refuse_non_finite(method: Method, logged: dict[str, float], step: int) -> None:
    """NonFinite with the names of what is not finite."""
    bad = [name for name, value in logged.items() if not abs(value) < float("inf")]
    if bad:
        named = method.named_parameters()
        tensors = [name for name, p in named if p.grad is not None and not bool(torch.isfinite(p.grad).all())]
        where = f", nor are the gradients of {', '.join(tensors[:3])}{' ...' if tensors[3:] else ''}" if tensors else ""
        raise NonFinite(
            f"{' and '.join(bad)} not finite at step {step}{where}; take a lower --lr or --clip-grad, or fp32: "
            "the last checkpoint is as it was"
        )


def steps_within(job: Job, seconds: float) -> int:
    """How many steps fit, by the pace of the first ones on a copy that is thrown away; what that takes is counted."""
    start, o = time.perf_counter(), job.recipe.train
    assembly = replace(job.assembly, method=copy.deepcopy(job.method))
    optimizer = optimizer_of(assembly.method, o, job.device)
    trial, done = replace(job, assembly=assembly, ema=EMA(assembly.method, o.ema), optimizer=optimizer), 0
    for step in range(WARM):
        step_once(trial, step, WARM, 0)
    began = time.perf_counter()
    while done < 2 or (done < TIMED and time.perf_counter() - began < ENOUGH):
        step_once(trial, done, 10**6, 0)
        done += 1
    now = time.perf_counter()
    return max(1, int((PICTURES * seconds - (now - start)) / ((now - began) / done)))


def anchored(recipe: Recipe) -> Recipe:
    """The recipe with every file and run it names as an absolute path: it means the same tomorrow, and elsewhere.

    A relative path of nothing here stays as it is: a data set may find it below its data folders.
    """
    runs = {k: getattr(recipe.train, k) for k in ("init", "autoencoder")}
    recipe = recipe.with_train(**{k: str(find(text).path.resolve()) for k, text in runs.items() if text is not None})
    for kind, part in recipe.parts.items():
        named = {k: v for k, v in vars(part.config).items() if isinstance(v, Path)}
        paths = {k: v.resolve() for k, v in named.items() if v.is_absolute() or os.path.exists(v)}
        recipe = recipe.replace_part(kind, replace(part.config, **paths))
    return recipe


def settle(job: Job) -> int:
    """Turn epochs or a budget into steps, and write them into the recipe: from here on it is an ordinary run."""
    o = job.recipe.train
    steps = o.steps or 1
    if o.budget is not None:
        steps = steps_within(job, length.seconds(o.budget))
    elif o.epochs is not None:
        steps = max(1, round(o.epochs * length.epoch(len(job.data), o.batch_size)))
    job.assembly = replace(job.assembly, recipe=job.recipe.with_train(steps=steps, epochs=None, budget=None))
    return steps
