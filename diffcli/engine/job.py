"""A training, put together and tried before anything is written."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from diffcli.core.method import Method
from diffcli.core.space import Autoencoder
from diffcli.engine import checkpoint, hub, memory, parallel, preview
from diffcli.engine.assemble import Assembly, Facts, assemble, open_data
from diffcli.engine.ema import EMA, PowerEMA, power
from diffcli.engine.encoded import encoded
from diffcli.engine.load import Model, autoencoder, load
from diffcli.engine.optimizer import optimizer_of
from diffcli.engine.precision import device, settle
from diffcli.engine.ranks import ALONE, World
from diffcli.engine.rundir import find
from diffcli.engine.step import batch_of, losses_of
from diffcli.errors import EnvironmentProblem, NonFinite, PluginError, UsageError, show
from diffcli.recipe import Recipe, resolve


@dataclass
class Job:
    """Everything a step needs.

    step: the method's loss, over all processes of the world; scaler: of the loss, for fp16; autoencoder: SHA-256 of the
    weights whose latents the method lives in; shown: a copy of the method that can be looked at, where the averaged
    weights themselves cannot, as each process has a share of them, or they are float64; profiles: more averages, of which
    others are made after the training.
    """

    assembly: Assembly
    data: Any
    held_out: Any
    device: torch.device
    ema: EMA
    optimizer: torch.optim.AdamW
    autoencoder: str | None
    step: nn.Module
    scaler: torch.amp.GradScaler
    world: World = ALONE
    shown: Method | None = None
    profiles: dict[str, PowerEMA] = field(default_factory=dict)

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

    @property
    def wide(self) -> torch.dtype:
        """Of sums of losses: float64 where the device has it."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    @property
    def meta(self) -> dict[str, Any]:
        """What rebuilds the model without the data."""
        return {"recipe": self.recipe.tables(), "facts": vars(self.assembly.facts), "autoencoder": self.autoencoder}

    def model(self, where: str, step: int) -> Model:
        """The averaged weights as sampling and evaluation see them; all processes ask at once.

        Where each has a share of them, only the first process has the model.
        """
        a = self.assembly
        return Model(a.recipe, self.averaged(), a.space, a.facts, self.device, where, step, "ema", "")

    def averaged(self) -> Method:
        """The method with the averaged weights, whole and in float32."""
        method: Method = self.ema.model  # type: ignore[assignment]
        if self.shown is None:
            return method
        tensors = parallel.collected(method.state_dict(), self.world.first)
        if self.world.first:
            self.shown.load_state_dict(tensors)
        return self.shown


def prepare(recipe: Recipe, sha256: str | None = None, first: Recipe | None = None, world: World = ALONE) -> Job:
    """Put everything together and try the first batch and the previews; nothing is written.

    sha256: of the autoencoder that the weights to come have known. A latent method that is given none, or a method for
    which `first` is yet to be trained, gets an untrained one: trials, speed and laws need no better.
    """
    o = recipe.train
    on = device(o.device, world.local if world.size > 1 else None)
    settle(o.precision, on)
    if o.keep_memory and not memory.keep():
        raise EnvironmentProblem("--keep-memory: this machine's C library has no mallopt; leave it out")
    if o.batch_size < world.size * o.accumulate:
        raise UsageError(
            f"--batch-size {o.batch_size} is less than {world.size} processes x {o.accumulate} parts; take a larger one"
        )
    data = world.in_turn(lambda: open_data(recipe, "train"))
    facts = Facts.of(data)
    encoder = autoencoder(recipe, facts, o.device, sha256)
    if first is None and recipe.spec.autoencoder:
        first = resolve({"method": {"name": recipe.spec.autoencoder}})
    assembly = assemble(recipe, facts, encoder.method if encoder else first and frozen(first, facts, on))
    method = assembly.method
    if o.init is not None:
        begin_from(load(o.init, raw=True, device="cpu"), assembly, f"--init {show(o.init)}")
    method.to(on, memory_format=torch.channels_last) if o.channels_last else method.to(on)
    shown = parallel.plain(method) if o.precision == "fp64" else None
    method = method.double() if o.precision == "fp64" else method
    data, held_out = method.data(data).to(on), method.view(open_data(recipe, "test")).to(on)
    data, held_out = (encoded(each, assembly.space, on, o.cache_latents) for each in (data, held_out))
    assembly = replace(assembly, facts=replace(assembly.facts, split=data.split))  # with what the method does to it
    scaler = torch.amp.GradScaler(on.type, enabled=o.precision == "fp16")
    ema, optimizer, known = EMA(method, o.ema), optimizer_of(method, o, on), encoder and encoder.sha256
    step, profiles = parallel.Step(method), power(method, o)
    job = Job(assembly, data, held_out, on, ema, optimizer, known, step, scaler, world, shown, profiles)
    if o.checkpointing:
        parallel.recompute(method)
    first_batch(job)
    preview.plan(job.model("the model", 0), held_out)
    return job


def spread(job: Job) -> None:
    """Over all processes of the world, and compiled where that is asked for: the last thing before the first step."""
    o, method = job.recipe.train, job.method
    if o.compile:
        for network in method.networks():
            network.compile()
    if job.world.size == 1:
        return
    if o.strategy == "fsdp":
        refuse_shares(job)
        job.shown = job.shown or parallel.plain(job.ema.model)  # type: ignore[arg-type]
        job.shown = job.shown if job.world.first else job.shown.to("meta")  # of use to the first process alone
        job.step = parallel.shares(parallel.Step(method), job.device)
        for average in (job.ema, *job.profiles.values()):
            parallel.shares(parallel.Step(average.model), job.device)  # type: ignore[arg-type]
        job.optimizer = optimizer_of(method, o, job.device)
        return
    job.step = parallel.whole_on_each(parallel.Step(method), job.device, unused(job))


def refuse_shares(job: Job) -> None:
    """UsageError for what each process cannot do with a share of the weights."""
    o, name = job.recipe.train, job.recipe.method.name
    if type(job.method).calibrate is not Method.calibrate:
        raise UsageError(
            f"{name} takes statistics of its whole network, of which --strategy fsdp leaves none; take ddp"
        )
    if o.precision == "fp16":
        raise UsageError("--precision fp16 scales the loss of a whole model; take bf16 with --strategy fsdp")


def unused(job: Job) -> bool:
    """Whether a step leaves parameters without a gradient, by a trial on two images."""
    kept = [(buffer, buffer.clone()) for buffer in job.method.buffers()]
    losses_of(job, torch.arange(2))["loss"].backward()
    found = any(p.grad is None for p in job.method.parameters() if p.requires_grad)
    job.optimizer.zero_grad()
    for buffer, before in kept:
        buffer.copy_(before)
    return found


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
    batch, shape = batch_of(job, index), tuple(job.assembly.space.shape)
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


def anchored(recipe: Recipe) -> Recipe:
    """The recipe with every file and run it names as an absolute path: it means the same tomorrow, and elsewhere.

    A relative path of nothing here stays as it is: a data set may find it below its data folders.
    """
    runs = {k: getattr(recipe.train, k) for k in ("init", "autoencoder")}
    recipe = recipe.with_train(**{k: str(find(text).path.resolve()) for k, text in runs.items() if text is not None})
    for kind, part in recipe.parts.items():
        config = part.config.pinned() if hasattr(part.config, "pinned") else part.config
        named = {k: v for k, v in vars(config).items() if isinstance(v, Path)}
        paths = {k: v.resolve() for k, v in named.items() if v.is_absolute() or os.path.exists(v) or pattern(str(v))}
        recipe = recipe.replace_part(kind, replace(config, **paths))
    return recipe


def pattern(path: str) -> bool:
    """Whether a path stands for several files here."""
    return not path.startswith(hub.PREFIX) and any(mark in path for mark in "*?[{")
