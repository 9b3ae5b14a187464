"""How many steps a training has: as many as are asked for, or as fit into a budget of time."""

from __future__ import annotations

import copy
import time
from dataclasses import replace

import torch

from diffcli.engine import length, parallel
from diffcli.engine.ema import EMA, power
from diffcli.engine.job import Job
from diffcli.engine.optimizer import optimizer_of
from diffcli.engine.step import step_once

WARM, TIMED, ENOUGH = 3, 40, 3.0  # steps not timed; steps, or seconds, that are
PICTURES = 0.95  # of a budget is for steps, the rest for pictures and checkpoints


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


def steps_within(job: Job, seconds: float) -> int:
    """How many steps fit, by the pace of the first ones on a copy that is thrown away; what that takes is counted.

    Of several processes the first one's clock decides; what they tell each other about gradients is not in it.
    """
    start, o = time.perf_counter(), job.recipe.train
    assembly = replace(job.assembly, method=copy.deepcopy(job.method))
    optimizer = optimizer_of(assembly.method, o, job.device)
    step, ema = parallel.Step(assembly.method), EMA(assembly.method, o.ema)
    scaler = torch.amp.GradScaler(job.device.type, enabled=job.scaler.is_enabled())
    parts = {"ema": ema, "profiles": power(assembly.method, o), "optimizer": optimizer, "scaler": scaler}
    trial, done = replace(job, assembly=assembly, step=step, **parts), 0
    for number in range(WARM):
        step_once(trial, number, WARM, 0)
    began = time.perf_counter()
    while done < 2 or job.world.told(done < TIMED and time.perf_counter() - began < ENOUGH):
        step_once(trial, done, 10**6, 0)
        done += 1
    now = time.perf_counter()
    return job.world.told(max(1, int((PICTURES * seconds - (now - start)) / ((now - began) / done))))
