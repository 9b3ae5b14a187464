"""The loss of rectified flow (Liu, Gong and Liu 2022, arXiv 2209.03003)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffcli.core.denoiser import Preconditioned
from diffcli.core.method import Batch, Labelled
from diffcli.core.parameterization import slope
from diffcli.core.process import GaussianProcess
from diffcli.core.random import Rng
from diffcli.core.space import Space
from diffcli_rf import RFOptions
from diffcli_rf.reflow import Pairs, straightness, write_pairs


class RectifiedFlow(Labelled):
    """E || F(x_t, t) - (eps - x_0) ||^2 (Liu et al. 2022, Eq. 1)."""

    def __init__(self, config: RFOptions, space: Space, *, model: Callable[..., nn.Module], process: GaussianProcess):
        super().__init__(config.cond == "label", config.label_dropout)
        self.config, self.shape, channels = config, space.shape, space.shape[0]
        self.classes = space.classes if self.conditional else 0
        net = model(inputs=channels, outputs=channels, classes=self.classes)
        self.denoiser = Preconditioned(net, process, slope)

    def time(self, u: Tensor, rng: Rng) -> Tensor:
        """Training: sigmoid(mean + std n), n standard normal (Esser et al. 2024, Eq. 19), or uniform. Evaluation: uniform.

        u (B,): stratified in (0, 1).
        """
        c, quantile = self.config, self.denoiser.process.quantile
        law = c.time_sampling or ("uniform" if c.pairs else "logit_normal")
        if not self.training or law == "uniform":
            return quantile(u)
        uniform = rng.draw("time law", (), torch.float64, torch.rand) < c.time_uniform
        return quantile(torch.where(uniform, u, torch.sigmoid(c.time_mean + c.time_std * torch.special.ndtri(u))))

    def loss(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        t = self.time(rng.strata("time"), rng)
        eps = rng.normal("eps", batch.x.shape[1:]) if batch.eps is None else batch.eps
        return {"loss": self.denoiser.error(batch.x, eps, t, self.cond(batch, rng)).mean()}

    def data(self, dataset: Any) -> Any:
        """The pairs of an earlier flow, when reflow is asked for."""
        if self.config.pairs is None:
            return dataset
        return Pairs(self.config.pairs, self.shape, self.classes)

    def diagnose(self, dataset: Any, device: torch.device) -> dict[str, float]:
        """Straightness of the flow before and after reflow."""
        return {"straightness": straightness(self, self.shape, device)} if self.config.pairs else {}

    def keep(self, samples: Any, options: Any, folder: Path) -> list[Path]:
        """The pairs that `sample --pairs` asked for."""
        return [write_pairs(samples, self.denoiser.process, folder)] if options.pairs else []
