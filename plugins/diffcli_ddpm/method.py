"""The loss of DDPM (Ho, Jain and Abbeel 2020, arXiv 2006.11239)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffcli.core import parameterization
from diffcli.core.denoiser import Preconditioned
from diffcli.core.method import Batch, Labelled
from diffcli.core.process import GaussianProcess
from diffcli.core.random import Rng
from diffcli.core.space import Space
from diffcli_ddpm import DDPMOptions

PREDICTIONS = {"eps": parameterization.eps, "x0": parameterization.x0, "v": parameterization.v}


class DDPM(Labelled):
    """E || F(x_t, t) - F* ||^2 over uniform steps of the table, F* = eps by default (Ho et al. 2020, Eq. 14)."""

    def __init__(self, config: DDPMOptions, space: Space, *, model: Callable[..., nn.Module], process: GaussianProcess):
        super().__init__(config.cond == "label", config.label_dropout)
        channels = space.shape[0]
        net = model(inputs=channels, outputs=channels, classes=space.classes if self.conditional else 0)
        self.denoiser = Preconditioned(net, process, PREDICTIONS[config.prediction])

    def time(self, u: Tensor) -> Tensor:
        """A node of the table, each as likely as any other; where there is no table, the process's own law."""
        process = self.denoiser.process
        if process.nodes is None:
            return process.quantile(u)
        return (torch.floor(u * process.nodes) + 1) / process.nodes

    def loss(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        t = self.time(rng.strata("time"))
        eps = rng.normal("eps", batch.x.shape[1:])
        return {"loss": self.denoiser.error(batch.x, eps, t, self.cond(batch, rng)).mean()}
