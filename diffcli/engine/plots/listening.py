"""How a network is told its classes, and how far it listens: the numbers of `eval --plot condition`."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffcli.core.method import Batch, Method
from diffcli.core.random import Blocks, Rows
from diffcli.nn.blocks import CrossAttention
from diffcli.nn.embedding import LabelEmbedding

if TYPE_CHECKING:
    from diffcli.engine.evaluate import Bench

ROWS = 128  # training images that all of it is measured on
TIMES, MIDDLE = (0.05, 0.2, 0.5, 0.8, 0.95), 0.5


def measure(bench: Bench) -> dict[str, Any]:
    """All numbers, as plain JSON: tables, gradients, stem, attention, gap, and what they were measured on."""
    method, names = bench.model.method.eval(), ["null", *bench.model.facts.class_names]
    items = bench.order(bench.train, ROWS).to(bench.model.device)
    index = torch.arange(len(items), device=bench.model.device)
    batch = bench.train.batch(items, index, bench.model.space)
    norms = gradients(method, batch, bench.options.seed)
    classes = tables(method.denoiser)
    own = {f"{name}.weight" for name in classes}
    rest = {name: norm for name, norm in norms.items() if name not in own}
    largest = max(rest, key=lambda name: rest[name])
    return {
        "batch": {"n": len(items), "split": bench.train.split, "seed": bench.options.seed},
        "tables": {
            name: {**rows(table, names), "gradient": norms.get(f"{name}.weight", 0.0)}
            for name, table in classes.items()
        },
        "gradients": {
            "rest_mean": sum(rest.values()) / len(rest),
            "rest_max": rest[largest],
            "rest_max_name": largest,
        },
        "stem": stem(method.denoiser.net),
        "attention": attention(method, batch, bench.options.seed, norms),
        "gap": gaps(method, batch, bench.options.seed, names[1:]),
    }


def tables(module: nn.Module) -> dict[str, LabelEmbedding]:
    """The tables of classes in a network, by name."""
    return {name: part for name, part in module.named_modules() if isinstance(part, LabelEmbedding)}


def rows(table: LabelEmbedding, names: list[str]) -> dict[str, Any]:
    """Mean, standard deviation and norm of each row, and the distances between them; row 0 is the null class."""
    weight = table.weight.detach().double().cpu()
    away = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
    k = len(weight) - 1
    between = away[1:, 1:][~torch.eye(k, dtype=torch.bool)] if k > 1 else away.new_zeros(1)
    return {
        "shape": list(table.shape),
        "rows": names,
        "mean": weight.mean(1).tolist(),
        "std": weight.std(1, correction=0).tolist(),
        "norm": weight.norm(dim=1).tolist(),
        "distances": away.tolist(),
        "null_class": {"min": float(away[0, 1:].min()), "mean": float(away[0, 1:].mean())},
        "class_class": {"min": float(between.min()), "mean": float(between.mean()), "max": float(between.max())},
    }


def gradients(method: Method, batch: Batch, seed: int) -> dict[str, float]:
    """Norm of the gradient of each parameter of the denoiser, of the loss of one batch with its labels dropped as in training."""
    trained = copy.deepcopy(method).requires_grad_(True).train()
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trained.loss(batch, Blocks(seed, batch.index, len(batch.index)))["loss"].backward()
    named = trained.denoiser.named_parameters()
    return {name: 0.0 if p.grad is None else float(p.grad.norm()) for name, p in named}


def stem(net: nn.Module) -> dict[str, Any] | None:
    """Norm of the first convolution's weights on each channel of its input, where the last of them is the class."""
    first = getattr(net, "stem", None)
    if getattr(net, "conditioning", "") != "concat" or not isinstance(first, nn.Conv2d):
        return None
    *channels, condition = first.weight.detach().transpose(0, 1).flatten(1).norm(dim=1).tolist()
    return {"input": channels, "condition": condition}


def noised(method: Method, batch: Batch, t: float, seed: int) -> tuple[Tensor, Tensor]:
    """(x_t, t) of a batch at the node nearest to t."""
    process = method.denoiser.process
    node = t if process.nodes is None else max(1, round(t * process.nodes)) / process.nodes
    time = torch.tensor(node, dtype=torch.float64)
    assert batch.x is not None
    eps = Rows(seed, batch.index, len(batch.index)).normal("eps", batch.x.shape[1:])
    return process.diffuse(batch.x, eps, time), time


def gap(method: Method, batch: Batch, t: float, seed: int) -> float:
    """Root mean square of eps_c - eps_null at t, of the batch with its labels."""
    x_t, time = noised(method, batch, t, seed)
    cond = method.cond(batch, Rows(seed, batch.index, len(batch.index)))
    known, null = method.denoiser(x_t, time, cond).eps, method.denoiser(x_t, time, method.weaken(cond)).eps
    return float((known - null).square().mean().sqrt())


def gaps(method: Method, batch: Batch, seed: int, names: list[str]) -> dict[str, Any]:
    """The gap at some times, each image with its own label; and at the middle one with each class for all images."""
    assert batch.label is not None
    all_of = [batch._replace(label=torch.full_like(batch.label, k)) for k in range(len(names))]
    return {
        "by_time": {f"{t:g}": gap(method, batch, t, seed) for t in TIMES},
        "by_class": {name: gap(method, one, MIDDLE, seed) for name, one in zip(names, all_of, strict=True)},
    }


def attention(method: Method, batch: Batch, seed: int, norms: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Of each cross-attention: gradients of its q, k, v, o; entropy over tokens at t = MIDDLE, the mean over heads and
    positions, at most ln M; and the spatial standard deviation of what it adds, the mean over images and channels."""
    found = dict[str, dict[str, Any]]()
    parts = {name: part for name, part in method.denoiser.named_modules() if isinstance(part, CrossAttention)}
    letters = {"q": "q", "k": "k", "v": "v", "o": "out"}

    def look(name: str) -> Any:
        def hook(part: CrossAttention, given: tuple[Tensor, Tensor], out: Tensor) -> None:
            x, context = given
            weights = part.weights(x, context)
            found[name] = {
                "tokens": context.shape[1],
                "ln_tokens": math.log(context.shape[1]),
                "entropy": float(torch.special.entr(weights).sum(-1).mean()),
                "spatial_std": float((out - x).flatten(2).std(2, correction=0).mean()),
                "gradient": {key: norms[f"{name}.{of}.weight"] for key, of in letters.items()},
            }

        return hook

    hooks = [part.register_forward_hook(look(name)) for name, part in parts.items()]
    try:
        if parts:
            x_t, time = noised(method, batch, MIDDLE, seed)
            method.denoiser(x_t, time, method.cond(batch, Rows(seed, batch.index, len(batch.index))))
    finally:
        for hook in hooks:
            hook.remove()
    return found
