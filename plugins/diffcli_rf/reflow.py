"""Reflow (Liu et al. 2022, Section 2.2): train a flow again on its own pairs of noise and image, and how straight it became."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from diffcli.core.method import Batch
from diffcli.core.process import GaussianProcess
from diffcli.core.random import Rows, shuffled
from diffcli.engine.files import durable
from diffcli.errors import DataError, show
from diffcli.samplers.frame import frame, slope
from diffcli.samplers.grid import grid

LARGEST = 16 * 2**30


def write_pairs(samples: Any, process: GaussianProcess, folder: Path) -> Path:
    """pairs.safetensors: x_0 and eps (n, *) float32 in the process's space, unclamped, and label where there is one."""
    std = float(process.sigma(torch.ones((), dtype=torch.float64)))
    tensors = {"x_0": samples.x_0.contiguous(), "eps": (samples.start / std).contiguous()}
    if samples.label is not None:
        tensors["label"] = samples.label
    path = folder / "pairs.safetensors"
    durable(path, save(tensors, {"diffcli": json.dumps(samples.facts)}))
    return path


class Pairs:
    """(x_0, eps) pairs in place of a data set, already in the process's space."""

    def __init__(self, file: Path, shape: tuple[int, ...], classes: int = 0):
        path = file
        if not file.is_file():
            raise DataError(f"no pairs at {show(path)}; draw them with diffcli sample rf --pairs 10000")
        if file.stat().st_size > LARGEST:
            raise DataError(f"{show(path)} is larger than 16 GiB; draw fewer pairs")
        try:
            tensors = load(file.read_bytes())
        except (SafetensorError, ValueError) as error:
            raise DataError(f"{show(path)} is not a whole pairs file: {show(error)}; draw the pairs again") from None
        if not {"x_0", "eps"} <= tensors.keys() or tensors["x_0"].shape != tensors["eps"].shape:
            raise DataError(
                f"{show(path)} holds no pairs of x_0 and eps; draw them with diffcli sample rf --pairs 10000"
            )
        if tensors["x_0"].shape[1:] != shape:
            raise DataError(
                f"{show(path)} holds pairs of {tuple(tensors['x_0'].shape[1:])}, but the model is of {shape}; draw pairs with the same model"
            )
        label = tensors.get("label")
        if classes and (label is None or label.shape != tensors["x_0"].shape[:1] or not bool((label < classes).all())):
            raise DataError(
                f"{show(path)} holds no labels of {classes} classes; draw the pairs with a model trained with --cond label"
            )
        if any(t.dtype != torch.float32 or not bool(torch.isfinite(t).all()) for t in (tensors["x_0"], tensors["eps"])):
            raise DataError(f"{show(path)} holds pairs that are not finite float32; draw the pairs again")
        self.split = f"pairs of {path.name}"
        self.x_0, self.eps, self.label = tensors["x_0"], tensors["eps"], tensors.get("label")

    def __len__(self) -> int:
        return len(self.x_0)

    def to(self, device: torch.device) -> Pairs:
        self.x_0, self.eps = self.x_0.to(device), self.eps.to(device)
        self.label = None if self.label is None else self.label.to(device)
        return self

    def items(self, seed: int, index: Tensor) -> Tensor:
        return shuffled(seed, index, len(self))

    def batch(self, items: Tensor, index: Tensor, space: Any) -> Batch:
        return Batch(index, self.x_0[items], None if self.label is None else self.label[items], eps=self.eps[items])


@torch.no_grad()
def paths(method: Any, shape: tuple[int, ...], device: torch.device, images: int, steps: int) -> Tensor:
    """S = mean over t of E || (y_1 - y_0)/u_1 - dy/du ||^2 / D along the flow's own paths (Liu et al. 2022, Eq. 5).

    On the rectified path y = x, u = t and the straight line is eps - x_0.
    """
    denoiser, index = method.denoiser, torch.arange(images, device=device)
    process, rng = denoiser.process, Rows(0, index, images)
    cond = method.cond(Batch(index), rng)
    times = grid(process, steps, "uniform")
    x = start = process.prior(shape, rng)
    slopes = []
    for t, s in zip(times[:-1].unbind(), times[1:].unbind(), strict=True):
        pair = denoiser(x, t, cond)
        slopes.append(slope(process, pair))
        x = process.diffuse(pair.x_0, pair.eps, s)
    (scale, u), (scale_0, _) = (frame(process, t) for t in (times[0], times[-1]))
    straight = (start / scale - x / scale_0) / u
    return torch.stack([(straight - w).square().mean() for w in slopes]).mean()


def straightness(
    method: Any, shape: tuple[int, ...], device: torch.device, images: int = 256, steps: int = 50
) -> float:
    """How far the flow's paths are from straight lines; 0 where one Euler step is exact."""
    training = method.training
    value = float(paths(method.eval(), shape, device, images, steps))
    method.train(training)
    return value


def measure(bench: Any) -> Iterator[dict[str, Any]]:
    """`eval rf --metric straightness`."""
    model = bench.model
    yield bench.record(
        "straightness", straightness(model.method, model.space.shape, model.device), images=256, steps=50, seed=0
    )
