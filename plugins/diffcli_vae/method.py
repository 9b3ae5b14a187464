"""The loss of a KL autoencoder (Kingma and Welling 2013, arXiv 1312.6114), and the statistics of its latents."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from diffcli.core.method import Batch, Method, Preview, Wrap
from diffcli.core.random import Rng
from diffcli.core.space import Space
from diffcli_vae import VAEOptions, VAESample, latents
from diffcli_vision import inputs


def divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) in nats, summed over the latents of each image: (B, *) -> (B,).

    1/2 sum (mean^2 + exp(logvar) - 1 - logvar) (Kingma and Welling 2013, appendix B), in float32.
    """
    mean, logvar = mean.float(), logvar.float()
    return 0.5 * (mean.square() + torch.expm1(logvar) - logvar).flatten(1).sum(1)


class VAE(Method):
    """E_q || x_hat(z) - x ||^2 / D + kl_weight KL(q(z | x) || N(0, 1)): a mean over pixels, a sum over latents.

    An autoencoder that others live in: `encode` gives s times the mode, which has a standard deviation of 1 (Rombach et al.
    2022, appendix G). latent_scale is s, latent_bound a bound of |s mode|; both are set before each checkpoint.
    """

    reconstructs: ClassVar[bool] = True
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
        self.opened: tuple[VAESample, Tensor] | None = None  # what --latents named last
        self.latent_mean = math.nan  # of the mode, unscaled: it is logged, and never subtracted

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
        """Held-out image i for sample i, or picture i of --input; in `eps` row i of --latents; nothing for --prior."""
        items, device = batch.index.cpu(), batch.index.device
        if isinstance(options, VAESample) and options.prior:
            return batch
        if isinstance(options, VAESample) and options.latents is not None:
            z = self.given(options)
            return batch._replace(eps=z[items % len(z)].to(device))
        if isinstance(options, VAESample) and options.input is not None:
            files = inputs.listed(options.input)
            pixels = [inputs.read(files[i % len(files)], self.space.shape) for i in items.tolist()]
            x = torch.from_numpy(np.stack(pixels)).to(device).float() / 127.5 - 1
            return batch._replace(x=x)
        data = held_out()
        items = items % len(data)
        return batch._replace(x=data.batch(items, items, self.space).x.to(device))

    def given(self, options: VAESample) -> Tensor:
        """The latents of --latents, read once for all batches that are drawn with these options."""
        if self.opened is None or self.opened[0] is not options:
            z = latents.read(Path(str(options.latents)), self.network.shape, latents.fingerprint(self))
            self.opened = options, z
        return self.opened[1]

    def trajectory(
        self, batch: Batch, shape: tuple[int, ...], sampler: Any, times: Tensor, wrap: Wrap, rng: Rng
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The image, and what comes back of it; where none is given, twice what latents, given or N(0, 1), decode to."""
        if batch.x is not None:
            yield times[0], batch.x
            yield times[-1], self.decode(self.encode(batch.x), rng)
            return
        z = rng.normal("prior", self.network.shape) if batch.eps is None else batch.eps
        x = self.decode(z, rng)
        yield times[0], x
        yield times[-1], x

    def keep(self, samples: Any, options: Any, folder: Path) -> list[Path]:
        """The latents that --keep-latents asked for, of the images as they were given."""
        if not options.keep_latents:
            return []
        parts = samples.given.x.to(self.latent_scale.device).split(self.space.rows)
        with torch.no_grad():
            z = torch.cat([self.encode(x).cpu() for x in parts])
        return [latents.write(z, latents.fingerprint(self), samples.facts, folder)]
