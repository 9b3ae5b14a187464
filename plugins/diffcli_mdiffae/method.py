"""The loss of mDiffAE (2026): a diffusion decoder that must often do with one token in four, and the latents it is told."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffcli.core.denoiser import Cond, Preconditioned
from diffcli.core.method import Batch, Preview
from diffcli.core.parameterization import x0
from diffcli.core.process import GaussianProcess, expand, slope
from diffcli.core.random import Rng
from diffcli.core.space import Space
from diffcli.errors import UsageError
from diffcli_mdiffae import MDiffAEOptions
from diffcli_vision.reconstruction import Reconstruction

BIAS = -1.0  # of the sigmoid weighting, in log-SNR (Hoogeboom et al. 2024)
PATTERN_SEED = 0  # of the tokens that guidance hides


def pattern(u: Tensor, height: int, width: int) -> Tensor:
    """(B, 1, height, width), True for one token of each 2x2 group, by u (B, ceil(height/2), ceil(width/2)) in [0, 1).

    Groups that lie across an odd border keep what of them is inside.
    """
    one = F.one_hot((4 * u).long(), 4).movedim(-1, 1).to(torch.uint8)
    return F.pixel_shuffle(one, 2)[..., :height, :width] > 0


def groups(height: int, width: int) -> tuple[int, int]:
    """How many 2x2 groups there are, down and across."""
    return -(-height // 2), -(-width // 2)


class MDiffAE(Reconstruction):
    """E w(t) || F(x_t, t, z) - x_0 ||^2 / D with z = encode(x_0) (the mDiffAE report, 2026), and an autoencoder.

    Of half of the training images three in four tokens of the decoder are hidden; of a tenth the latents are mixed with
    noise, (1 - tau) z + tau n with tau ~ Beta(2, 2); a tenth is at t = 1, which is all that one-step decoding asks for.
    """

    any_size: ClassVar[bool] = True
    guidable: ClassVar[bool] = True  # type: ignore[assignment]  # away from a weaker decoder, which needs no label

    def __init__(
        self, config: MDiffAEOptions, space: Space, *, model: Callable[..., nn.Module], process: GaussianProcess
    ):
        super().__init__()
        channels = space.shape[0]
        self.config, self.space = config, space
        network: Any = model(inputs=channels, outputs=channels)
        self.denoiser = Preconditioned(
            network, process, x0, c_in=lambda p, t: torch.ones_like(t), c_noise=lambda p, t: 1000 * t
        )
        self.multiple: int = network.config.p
        self.latent_shape = network.shape
        self.latent_bound = math.sqrt(network.config.z)  # each pixel has mean square 1 over its channels
        self.paths = network.config.topology == "skip"
        self.share = 1.0 if config.weighting == "x0" else mean_weight(process)

    def notes(self, data: Any) -> list[str]:
        """How small the latents are."""
        latent, image = math.prod(self.latent_shape), math.prod(self.space.shape)
        shape = "x".join(map(str, self.latent_shape))
        return [f"latents of {shape} = {latent} numbers, {image / latent:.3g} times fewer than an image's {image}"]

    def weight(self, t: Tensor) -> Tensor:
        """(B,): w(t), of mean 1 over t."""
        if self.config.weighting == "x0":
            return torch.ones_like(t)
        return weight(self.denoiser.process, t) / self.share

    def time(self, u: Tensor) -> Tensor:
        """Uniform, with a share at t = 1 in training; u (B,): stratified in (0, 1)."""
        share = self.config.final_time_share if self.training else 0.0
        return torch.ones_like(u) if share == 1 else (u / (1 - share)).clamp(max=1)

    def loss(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        x: Any = batch.x
        t, eps = self.time(rng.strata("time")), rng.normal("eps", x.shape[1:])
        error = self.denoiser.error(x, eps, t, self.cond(batch, rng))
        return {"loss": (expand(self.weight(t), error) * error).mean(), "mse": error.detach().mean()}

    def latent(self, batch: Batch) -> Tensor:
        """The latents of the images, or those that are given in their place."""
        if batch.z is not None:
            return batch.z
        if batch.x is None:
            raise UsageError(
                "mdiffae decodes latents, and has no law of them to draw from; give images, or train rf in them"
            )
        return self.encode(batch.x)

    def cond(self, batch: Batch, rng: Rng) -> Cond:
        z = self.latent(batch)
        rows, height, width = len(z), *z.shape[2:]
        keep = torch.ones(rows, 1, height, width, dtype=torch.bool, device=z.device)
        cond = {"latent": z, "keep": keep}
        if self.paths:
            cond["drop"] = torch.zeros(rows, dtype=torch.bool, device=z.device)
        return self.weakened(cond, rng) if self.training else cond

    def weakened(self, cond: Cond, rng: Rng) -> Cond:
        """What is hidden, mixed with noise and dropped in training, image by image."""
        c, z = self.config, cond["latent"]
        down, across = groups(*z.shape[2:])
        u = rng.uniform("mask", (1 + down * across,), torch.float32)
        whole = (u[:, 0] >= c.mask_prob)[:, None, None, None]
        keep = whole | pattern(u[:, 1:].unflatten(1, (down, across)), *z.shape[2:])
        u = rng.uniform("latent noise", (4,), torch.float32)
        tau = u[:, 1:].median(1).values * (u[:, 0] < c.latent_noise_prob)  # the median of three is Beta(2, 2)
        noisy = torch.lerp(z, rng.normal("latent", z.shape[1:]), expand(tau, z))
        drops = {"drop": rng.uniform("path", (), torch.float32) < c.path_drop_prob} if self.paths else {}
        return {"latent": noisy, "keep": keep, **drops}

    def weaken(self, cond: Cond) -> Cond:
        """The middle blocks left out, where there is a path around them; else three in four tokens hidden."""
        return self.drop(cond) if self.paths else self.hide(cond)

    def weakening(self, options: Any) -> Callable[[Cond], Cond]:
        """As --pdg says."""
        asked = getattr(options, "pdg", None)
        if asked == "path" and not self.paths:
            raise UsageError("--pdg path leaves the middle blocks out, but this decoder is flat; give --pdg token")
        return {None: self.weaken, "token": self.hide, "path": self.drop}[asked]

    def hide(self, cond: Cond) -> Cond:
        """Three in four tokens hidden, in one pattern for all images."""
        height, width = cond["keep"].shape[2:]
        generator = torch.Generator().manual_seed(PATTERN_SEED)
        keep = pattern(torch.rand(1, *groups(height, width), generator=generator), height, width)
        return {**cond, "keep": keep.to(cond["keep"].device).expand_as(cond["keep"])}

    def drop(self, cond: Cond) -> Cond:
        """The middle blocks left out."""
        return {**cond, "drop": torch.ones_like(cond["drop"])}

    def encode(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, b, H/P, W/P), of mean square 1 over b; nothing is drawn. UsageError where P does not divide a side."""
        z: Tensor = self.denoiser.net.encode(x)
        return z

    def decode(self, z: Tensor, rng: Rng) -> Tensor:
        """(B, b, h, w) -> (B, C, hP, wP), not clamped: one step from noise of its own to x_0, as ddim takes it."""
        batch = Batch(rng.index, z=z)
        x_t, t = self.begin((), batch, rng), torch.ones((), dtype=torch.float64)
        x: Tensor = self.denoiser(x_t, t, self.cond(batch, rng)).x_0
        return x

    def size(self, batch: Batch, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C, H, W) of the images of a batch; `shape` where it gives none."""
        if batch.z is not None:
            height, width = batch.z.shape[2:]
            return self.space.shape[0], height * self.multiple, width * self.multiple
        return shape if batch.x is None else tuple(batch.x.shape[1:])

    def begin(self, shape: tuple[int, ...], batch: Batch, rng: Rng) -> Tensor:
        """Noise of a purpose of its own: that of latents which are drawn is another."""
        one = torch.ones((), dtype=torch.float64)
        noise: Tensor = self.denoiser.process.sigma(one) * rng.normal("decode", self.size(batch, shape))
        return noise

    def default_steps(self, sampler: Any) -> int:
        """One: more bring images that look no nearer."""
        return 1

    def preview(self) -> Preview:
        """Held-out images in one step, what is wrong with them, and what is left where tokens are hidden."""
        return Preview(sampler={"name": "ddim"}, sample={"steps": 1}, plots=("rows",))

    def measures(self, facts: Any) -> tuple[str, ...]:
        """How near reconstructions are, by how many steps and at which price, and what their latents are."""
        return ("loss", "psnr", "ssim", "steps", "guided", "speed", "latents", "fd")


def weight(process: GaussianProcess, t: Tensor) -> Tensor:
    """-lambda'(t) e^lambda sigmoid(b - lambda), b = -1, as a loss of x_0 (Hoogeboom et al. 2024); lambda is of unit noise."""
    unit = getattr(process, "noise_std", 1.0)

    def logsnr(t: Tensor) -> Tensor:
        return -2 * torch.log(process.ratio(t) / unit)

    found = logsnr(t)
    return -slope(logsnr, t) * torch.exp(found) * torch.sigmoid(BIAS - found)


def mean_weight(process: GaussianProcess) -> float:
    """The mean of `weight` over t."""
    t = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    return float(weight(process, t).mean())
