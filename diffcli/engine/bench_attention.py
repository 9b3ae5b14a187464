"""torch's attention kernels against the formula written out, by number of tokens; beside them what nn.attention takes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffcli.engine.bench_train import now
from diffcli.engine.precision import device as named
from diffcli.nn.attention import few, written_out

TOKENS = (16, 64, 256, 1024)
HEADS, SIZE = 3, 32
WHOLE = 2048  # tokens in all, at least
DTYPES = (torch.float32, torch.bfloat16)
KERNELS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
ROUNDS, SECONDS = 5, 0.03  # the median of rounds of so long, in which each kernel comes in turn
TIE = 1.15  # differences below it are not resolved on a shared machine


class Way:
    """One way to compute attention; forward alone, or with its backward pass."""

    def __init__(self, compute: Callable[..., Tensor], allowed: SDPBackend | None, inputs: list[Tensor], back: bool):
        self.compute, self.allowed, self.inputs, self.back = compute, allowed, inputs, back
        self.taken: list[float] = []

    def where(self) -> AbstractContextManager[None]:
        return nullcontext() if self.allowed is None else sdpa_kernel(self.allowed)

    def once(self) -> Tensor:
        with self.where(), torch.set_grad_enabled(self.back):
            y = self.compute(*self.inputs)
        if self.back:
            y.backward(self.inputs[2].detach())
            for x in self.inputs:
                x.grad = None
        return y.detach()

    def round(self, seconds: float) -> None:
        """CPU microseconds a call, or those of the device."""
        on, done = self.inputs[0].device, 0
        begin = now(on)
        while not done or now(on).wall - begin.wall < seconds:
            self.once()
            done += 1
        self.taken.append(now(on).since(begin, on) / done * 1e6)


def ways(tokens: int, dtype: torch.dtype, on: torch.device, back: bool) -> dict[str, Way]:
    """Every way there is on this device, written out first; what torch refuses is left out."""
    shape = (max(1, WHOLE // tokens), HEADS, tokens, SIZE)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator).to(on, dtype).requires_grad_(back) for _ in range(3)]
    made = {"written out": Way(written_out, None, inputs, back)}
    for name, kernel in KERNELS.items():
        way = Way(F.scaled_dot_product_attention, kernel, inputs, back)
        try:
            way.once()
        except RuntimeError:
            continue
        made[name] = way
    return made | {"torch": Way(F.scaled_dot_product_attention, None, inputs, back)}


def attention(
    device: str = "auto",
    report: Callable[[str], None] = lambda what: None,
    *,
    tokens: Iterable[int] = TOKENS,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
) -> list[dict[str, Any]]:
    """A row for each number of tokens, dtype and pass, of 3 heads of 32.

    CPU microseconds a call (on a GPU, of the device) by each way: "written out", torch's kernels, and "torch", its own
    choice of them. chosen: what diffcli.nn.attention takes; fastest; loss: time of the chosen over that of the better of
    "written out" and "torch"; ok: loss within what can be told.
    """
    on, rows = named(device), []
    for dtype in DTYPES:
        for count in tokens:
            for back in (False, True):
                what = f"{str(dtype).removeprefix('torch.')}, {count} tokens" + (", with backward" if back else "")
                report(what)
                there = ways(count, dtype, on, back)
                for _ in range(rounds):
                    for way in there.values():
                        way.round(seconds)
                taken = {name: statistics.median(way.taken) for name, way in there.items()}
                chosen = "written out" if few(there["torch"].inputs[1]) else "torch"
                loss = taken[chosen] / min(taken["written out"], taken["torch"])
                row = {"dtype": str(dtype).removeprefix("torch."), "tokens": count, "device": str(on)}
                row |= {"pass": "with backward" if back else "forward", "us": taken, "chosen": chosen}
                rows.append(row | {"fastest": min(taken, key=taken.__getitem__), "loss": loss, "ok": loss <= TIE})
    return rows
