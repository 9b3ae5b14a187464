"""A backbone and a linear layer on its features, trained together to tell classes."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffcli.core.random import key
from diffcli.engine.precision import autocast
from diffcli.errors import NonFinite, PluginError
from diffcli.sections import EvalOptions

WARM = 0.1  # of the steps: the rise of the learning rate
LINES = 10  # of progress


def rate(step: int, steps: int) -> float:
    """The learning rate of a step over its peak: a linear rise, then a cosine to 0 after the last."""
    warm = math.ceil(WARM * steps)
    if step < warm:
        return (step + 1) / warm
    return (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2


def classifier(backbone: nn.Module, classes: int, x: Tensor) -> nn.Sequential:
    """backbone, then a linear layer of zeros: it begins with equal odds for all classes. PluginError where it gives no (B, D)."""
    with torch.no_grad():
        found = backbone.eval()(x)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(x):
        raise PluginError(f"backbone() gave no module from images (B, C, H, W) to features (B, D), but {type(found)}")
    head = nn.utils.skip_init(nn.Linear, found.shape[1], classes, device=found.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return nn.Sequential(backbone, head)


def finetune(
    backbone: nn.Module,
    classes: int,
    batch: Callable[[int], tuple[Tensor, Tensor]],
    steps: int,
    o: EvalOptions,
    on: torch.device,
    what: str,
) -> nn.Module:
    """The classifier after so many steps of AdamW on the mean cross-entropy, in eval mode; the backbone is trained in place.

    batch: step -> (x (B, C, H, W), label (B,)). Matrices decay, all else does not. A function of its arguments alone: what
    layers draw follows from (seed, step). NonFinite where the loss is not.
    """
    model = classifier(backbone, classes, batch(0)[0])
    big, small = ([p for p in model.parameters() if (p.ndim > 1) == many] for many in (True, False))
    groups = [{"params": big}, {"params": small, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, o.finetune_lr, weight_decay=o.finetune_decay)
    model.train()
    with torch.random.fork_rng(devices=[on] if on.type == "cuda" else []), torch.enable_grad():
        for step in range(steps):
            torch.manual_seed(key(o.seed, "finetune", step))
            x, label = batch(step)
            with autocast(o.precision, on):
                loss = F.cross_entropy(model(x).float(), label)
            if not bool(torch.isfinite(loss)):
                raise NonFinite(
                    f"{what}: the loss is {float(loss.detach())} at step {step + 1}; take a lower --finetune-lr"
                )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = o.finetune_lr * rate(step, steps)
            optimizer.step()
            if (step + 1) * LINES // steps > step * LINES // steps:
                print(f"{what}: step {step + 1} of {steps}, loss {float(loss.detach()):.4f}", file=sys.stderr)
    return model.eval()
