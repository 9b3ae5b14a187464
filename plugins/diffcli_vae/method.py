"""The loss of a KL autoencoder (Kingma and Welling 2013, arXiv 1312.6114), and the statistics of its latents."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffcli.core.method import Batch, Preview, Wrap
from diffcli.core.random import Rng
from diffcli.core.space import Space
from diffcli_vae import VAEOptions
from diffcli_vision.reconstruction import Reconstruction


def divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) in nats, summed over the latents of each image: (B, *) -> (B,).

    1/2 sum (mean^2 + exp(logvar) - 1 - logvar) (Kingma and Welling 2013, appendix B), in float32.
    """
    mean, logvar = mean.float(), logvar.float()
    return 0.5 * (mean.square() + torch.expm1(logvar) - logvar).flatten(1).sum(1)


class VAE(Reconstruction):
    """E_q || x_hat(z) - x ||^2 / D + kl_weight KL(q(z | x) || N(0, 1)): a mean over pixels, a sum over latents.

    An autoencoder that others live in: `encode` gives s times the mode, which has a standard deviation of 1 (Rombach et al.
    2022, appendix G). latent_scale is s, latent_bound a bound of |s mode|; both are set before each checkpoint.
    """

    calibration: ClassVar[int] = 25_600

    network: Any
    latent_scale: Tensor
    latent_bound: Tensor

    def __init__(self, config: VAEOptions, space: Space, *, model: Callable[..., nn.Module]):
        super().__init__()
        channels = space.shape[0]
        self.config, self.space, self.network = config, space, model(inputs=channels, outputs=channels)
        self.register_buffer("latent_scale", torch.ones(()))
        self.register_buffer("latent_bound", torch.ones(()))
        self.latent_mean = math.nan  # of the mode, unscaled: it is logged, and never subtracted

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(z, H/f, W/f)."""
        shape: tuple[int, ...] = self.network.shape
        return shape

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, H, W) -> (mean, logvar) of q(z | x), each (B, z, H/f, W/f), in float32."""
        mean, logvar = self.network.posterior(x)
        return mean, logvar

    def terms(self, x: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """(rec, KL), (B,) each: the squared error of a draw of q(z | x), a mean over the pixels in [-1, 1], and the nats."""
        mean, logvar = self.posterior(x)
        z = mean + torch.exp(0.5 * logvar) * rng.normal("posterior", mean.shape[1:])
        rec = (self.network.decode(z) - x).square().flatten(1).mean(1)
        return rec, divergence(mean, logvar)

    def loss(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        rec, kl = (term.mean() for term in self.terms(batch.x, rng))  # type: ignore[arg-type]
        return {"loss": rec + self.config.kl_weight * kl, "rec": rec.detach(), "kl": kl.detach()}

    def encode(self, x: Tensor) -> Tensor:
        """s times the mode of q(z | x): a function of x, not a draw."""
        return self.latent_scale * self.posterior(x)[0]

    def decode(self, z: Tensor, rng: Rng | None = None) -> Tensor:
        """(B, z, H/f, W/f) -> (B, C, H, W), not clamped. Nothing is drawn."""
        x: Tensor = self.network.decode(z / self.latent_scale)
        return x

    def calibrate(self, batches: Iterable[Batch]) -> None:
        """s = 1/std and the bound of |s mode|, rounded up to 0.1, over all elements of the modes of these images."""
        n, total, squares, most = 0, 0.0, 0.0, 0.0
        for batch in batches:
            mean = self.posterior(batch.x)[0].double()  # type: ignore[arg-type]
            n, total = n + mean.numel(), total + float(mean.sum())
            squares, most = squares + float(mean.square().sum()), max(most, float(mean.abs().max()))
        self.latent_mean = total / n
        std = math.sqrt(max(squares / n - self.latent_mean**2, 0.0)) or 1.0
        self.latent_scale.fill_(1 / std)
        self.latent_bound.fill_(math.ceil(10 * most / std) / 10)

    def diagnose(self, dataset: Any, device: torch.device) -> dict[str, float]:
        """The statistics of the latents, once there are any."""
        if math.isnan(self.latent_mean):
            return {}
        numbers = {"latent_mean": self.latent_mean}
        return numbers | {name: float(getattr(self, name)) for name in ("latent_scale", "latent_bound")}

    def preview(self) -> Preview:
        """Held-out images and what comes back of them, and where their latents lie."""
        return Preview(plots=("latents",))

    def measures(self, facts: Any) -> tuple[str, ...]:
        """How near reconstructions are, and what latents cost."""
        return ("loss", "psnr", "ssim", "rate", "latents", "fd")

    def wish(self, batch: Batch, options: Any, held_out: Callable[[], Any]) -> Batch:
        """Held-out image i for sample i, or what is given; nothing for --prior."""
        return batch if getattr(options, "prior", False) else super().wish(batch, options, held_out)

    def trajectory(
        self, batch: Batch, shape: tuple[int, ...], sampler: Any, times: Tensor, wrap: Wrap, rng: Rng
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The image, and what comes back of it; where none is given, twice what latents, given or N(0, 1), decode to."""
        if batch.x is not None:
            yield times[0], batch.x
            yield times[-1], self.decode(self.encode(batch.x), rng)
            return
        z = rng.normal("prior", self.network.shape) if batch.z is None else batch.z
        x = self.decode(z, rng)
        yield times[0], x
        yield times[-1], x
