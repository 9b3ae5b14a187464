"""How long a training is: steps, epochs or time, all turned into steps; and the learning rate along the way."""

from __future__ import annotations

import math

from diffcli.sections import TrainOptions


def seconds(budget: str) -> float:
    """90s, 10m or 2h in seconds."""
    return float(budget[:-1]) * {"s": 1, "m": 60, "h": 3600}[budget[-1]]


def epoch(images: int, batch_size: int) -> float:
    """Steps in a pass over the data; not whole where the batch size does not divide the images."""
    return images / batch_size


def every(span: str, images: int, batch_size: int) -> int:
    """`500` or `10ep` in steps; 0 is never."""
    if span.endswith("ep"):
        return round(int(span[:-2]) * epoch(images, batch_size))
    return int(span)


def due(step: int, span: int, last: int) -> bool:
    """True after every `span` steps and after the last one."""
    return step == last or (span > 0 and step % span == 0)


def learning_rate(o: TrainOptions, step: int, steps: int, warmup: int) -> float:
    """Linear warm-up to lr, then cosine, linear or constant to min_lr after the last step.

    With warmup_lr the first step has it, and step `warmup` has lr; without, the first has lr/warmup.
    """
    if step < warmup and o.warmup_lr is not None:
        return o.warmup_lr + (o.lr - o.warmup_lr) * step / warmup
    if step < warmup:
        return o.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    shape = {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}[o.lr_schedule]
    low = min(o.min_lr, o.lr)
    return low + (o.lr - low) * shape
