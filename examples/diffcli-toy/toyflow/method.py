"""Flow matching with a learned weight (Karras et al. 2024, arXiv 2312.02696, after Kendall et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from diffcli.core.denoiser import Preconditioned
from diffcli.core.method import Batch, Method, Preview
from diffcli.core.parameterization import slope
from diffcli.core.process import GaussianProcess
from diffcli.core.random import Rng
from diffcli.core.space import Space
from torch import Tensor, nn

from toyflow import UncertainOptions


class Uncertainty(nn.Module):
    """u(t) = sum_k c_k cos(pi k t), k = 0 ... K: the logarithm of the error that is to be expected at t. Begins at 0."""

    def __init__(self, frequencies: int):
        super().__init__()
        self.shares = nn.Parameter(torch.zeros(frequencies + 1))

    def forward(self, t: Tensor) -> Tensor:
        """t (B,) float64 -> (B,) float32."""
        k = torch.arange(len(self.shares), device=self.shares.device)
        return torch.cos(math.pi * k * t.to(self.shares)[:, None]) @ self.shares


class UncertainFlow(Method):
    """E [ e^(-u(t)) || F(x_t, t) - (eps - x_0) ||^2 + u(t) ] over the network F and the weight u.

    Given F, the least is at u(t) = log E || F - (eps - x_0) ||^2 at that t: every time then gives a loss of the same size,
    and none drowns the others. Norms are means over entries.
    """

    def __init__(
        self, config: UncertainOptions, space: Space, *, model: Callable[..., nn.Module], process: GaussianProcess
    ):
        super().__init__()
        self.config, channels = config, space.shape[0]
        self.denoiser = Preconditioned(model(inputs=channels, outputs=channels), process, slope)
        self.uncertainty = Uncertainty(config.frequencies)

    def errors(self, batch: Batch, rng: Rng) -> tuple[Tensor, Tensor]:
        """(times (B,), squared errors (B,))."""
        t = self.denoiser.process.quantile(rng.strata("time"))
        eps = rng.normal("eps", batch.x.shape[1:])
        return t, self.denoiser.error(batch.x, eps, t, {}).flatten(1).mean(1)

    def loss(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        t, error = self.errors(batch, rng)
        u = self.uncertainty(t)
        return {"loss": (torch.exp(-u) * error + u).mean(), "error": error.detach().mean()}

    def parameter_groups(self) -> Iterable[Mapping[str, Any]]:
        """The weight has a learning rate of its own, and is not drawn to 0."""
        return [
            {"params": list(self.denoiser.parameters())},
            {"params": list(self.uncertainty.parameters()), "lr": self.config.weight_lr, "weight_decay": 0.0},
        ]

    def preview(self) -> Preview:
        """Pictures by the method's own sampler in 20 steps, and u beside the error it stands for."""
        return Preview(sampler={"name": "ab3"}, sample={"steps": 20}, plots=("uncertainty",))
