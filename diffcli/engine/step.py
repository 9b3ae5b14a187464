"""What a training step is: a pure function of (recipe, weights, step number), so that a resume changes nothing."""

from __future__ import annotations

import math
import os
import random
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from diffcli.core.method import Batch, Method
from diffcli.core.random import Blocks, key, onto
from diffcli.engine import length, parallel
from diffcli.engine.optimizer import clip
from diffcli.engine.precision import autocast
from diffcli.errors import NonFinite

if TYPE_CHECKING:
    from diffcli.engine.job import Job

SMALLEST = 1.0  # scale of fp16's loss below which it is no overflow that gradients are not finite


def batch_of(job: Job, index: Tensor) -> Batch:
    """The batch at these positions of the stream, which are on the CPU; it is on the device of the job."""
    batch: Batch = job.data.batch(job.data.items(job.recipe.train.seed, index), index, job.assembly.space)
    return batch._replace(index=onto(batch.index, job.device))


def losses_of(job: Job, index: Tensor) -> dict[str, Tensor]:
    """The losses at these positions of the stream, which are on the CPU; a layer's own dropout follows from (seed, position)."""
    o = job.recipe.train
    batch, seed = batch_of(job, index), key(o.seed, "dropout", int(index[0]))
    torch.manual_seed(seed)  # the global streams have no state to save: they begin anew with each batch
    random.seed(seed)
    np.random.seed(seed)
    job.method.train()
    if o.precision == "fp64":
        batch = Batch(*(v.double() if v is not None and v.is_floating_point() else v for v in batch))
    gather = job.world.rows if job.world.size > 1 else None
    with autocast(o.precision, job.device):
        losses: dict[str, Tensor] = job.step(batch, Blocks(o.seed, index, o.batch_size, gather, device=job.device))
    return losses


def step_once(job: Job, step: int, steps: int, warmup: int) -> dict[str, float]:
    """One optimizer step, the `step`-th of `steps`; what is logged of it. NonFinite before any weight is touched.

    The host waits for the device once, where it reads what is logged.
    """
    o, world = job.recipe.train, job.world
    told: dict[str, Tensor] = {}
    job.optimizer.zero_grad()
    parts = torch.arange(step * o.batch_size, (step + 1) * o.batch_size).tensor_split(o.accumulate)
    for number, part in enumerate(parts, 1):
        mine = world.share(part)
        with parallel.accumulating(job.step, last=number == len(parts)):
            losses, share = losses_of(job, mine), len(mine) / o.batch_size
            job.scaler.scale(losses["loss"] * (share * world.size)).backward()  # gradients are the mean over processes
        for name, value in losses.items():
            mean = value.detach().to(job.wide) * share
            told[name] = told[name] + mean if name in told else mean
    job.scaler.unscale_(job.optimizer)
    if os.environ.get("DIFFCLI_TEST") == "1" and os.environ.get("DIFFCLI_TEST_NAN_AT") == str(step + 1):
        next(job.method.parameters()).grad.fill_(float("nan"))  # type: ignore[union-attr]
    norm = parallel.whole(
        torch.nn.utils.get_total_norm([p.grad for p in job.method.parameters() if p.grad is not None])
    )
    sums = world.sum(torch.stack(list(told.values())))
    logged = dict(zip([*told, "grad_norm"], torch.cat([sums, norm.to(sums)[None]]).tolist(), strict=True))
    logged["lr"] = length.learning_rate(o, step, steps, warmup)
    if not overflown(job, logged):
        refuse_non_finite(job.method, logged, step + 1)
        clip(job.optimizer, o, norm)
        for group in job.optimizer.param_groups:
            group["lr"] = logged["lr"] * group["scale"]
        job.scaler.step(job.optimizer)
        job.ema.update(job.method, step)
    for average in job.profiles.values():  # of a step that is left out too: the weights stood still in it
        average.update(job.method, step)
    job.scaler.update()
    return logged


def overflown(job: Job, logged: dict[str, float]) -> bool:
    """Whether only the scaled gradients of fp16 are beyond its numbers: the step is left out, and the scale halved."""
    if not job.scaler.is_enabled():
        return False
    finite, scale = math.isfinite(logged["grad_norm"]), job.scaler.get_scale()
    skipped = not finite and math.isfinite(logged["loss"]) and scale > SMALLEST
    logged |= {"loss_scale": scale, "skipped": float(skipped)} | ({"grad_norm": 0.0} if skipped else {})
    return skipped


def refuse_non_finite(method: Method, logged: dict[str, float], step: int) -> None:
    """NonFinite with the names of what is not finite."""
    bad = [name for name, value in logged.items() if not abs(value) < float("inf")]
    if bad:
        named = method.named_parameters()
        tensors = [
            name for name, p in named if p.grad is not None and not bool(torch.isfinite(parallel.local(p.grad)).all())
        ]
        where = f", nor are the gradients of {', '.join(tensors[:3])}{' ...' if tensors[3:] else ''}" if tensors else ""
        raise NonFinite(
            f"{' and '.join(bad)} not finite at step {step}{where}; take a lower --lr or --clip-grad, or fp32: "
            "the last checkpoint is as it was"
        )
