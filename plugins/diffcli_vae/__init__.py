"""KL autoencoder (Kingma and Welling 2013; Rombach et al. 2022): pictures to small latents and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from diffcli.errors import UsageError
from diffcli.plugin import Spec, Use, hookimpl, opt
from diffcli.sections import EvalOptions
from diffcli_vision.reconstructing import ReconstructionSample


@dataclass(frozen=True, kw_only=True)
class KLAutoencoderOptions:
    """[model] of kl-autoencoder."""

    channels: int = opt(32, "Channels of the first level.", min=4, max=4096)
    multipliers: tuple[int, ...] | None = opt(
        None,
        "Channels of each level over those of the first: 1,2,4; each level halves the sides. Unset goes by the size of "
        "the image.",
        min=1,
        max=64,
    )
    blocks: int = opt(1, "Residual blocks a level.", min=1, max=64)
    latent_channels: int | None = opt(
        None, "Channels of the latents; unset is 2, and 4 of colour images.", min=1, max=4096
    )
    head_channels: int = opt(0, "Channels of an attention head; 0 is one head over all.", min=0)

    @property
    def factor(self) -> int:
        """How many times a side of the latents is shorter than one of the image."""
        return 1 << len(self.multipliers or ())

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.channels * m for m in self.multipliers or ()]

    @property
    def z(self) -> int:
        """Channels of the latents."""
        return self.latent_channels or 0

    def fit(self, shape: tuple[int, ...]) -> KLAutoencoderOptions:
        """The same options with multipliers and latent channels filled in for images of `shape`, and checked.

        The rule: as many levels as keep the latents at 4 a side or more, one at least and three at most, with multipliers
        1,2,4 from the top. So 28 and 32 have three levels (f = 8), 16 two, 8 one. Grey images have 2 channels of latents,
        others 4: MNIST becomes 2x4x4, CIFAR-10 4x4x4.
        """
        if len(shape) != 3:
            raise UsageError("an autoencoder of images has nothing to encode in sequences; take a data set of images")
        side = min(shape[1:])
        levels = max(n for n in (1, 2, 3) if n == 1 or -(-side // 2**n) >= 4)
        multipliers = (1, 2, 4)[:levels] if self.multipliers is None else self.multipliers
        z = self.latent_channels or (2 if shape[0] == 1 else 4)
        made = replace(self, multipliers=multipliers, latent_channels=z)
        if not 1 <= len(multipliers) <= 8:
            raise UsageError(f"--multipliers has {len(multipliers)} levels; an autoencoder here has 1 to 8")
        if side < made.factor:
            raise UsageError(
                f"images of {shape[1]}x{shape[2]} are too small for {len(multipliers)} levels, each of which halves them: "
                f"the smallest are {made.factor}x{made.factor}; give fewer --multipliers"
            )
        return made


@dataclass(frozen=True, kw_only=True)
class VAEOptions:
    """[method] of vae."""

    kl_weight: float = opt(
        1e-6, "Weight of the KL in nats, summed over latents, against the mean squared error.", min=0, max=1e6
    )


@dataclass(frozen=True, kw_only=True)
class VAESample(ReconstructionSample):
    """[sample] of vae: held-out images and what comes back of them, or pictures or latents of your own."""

    sources: ClassVar[tuple[str, ...]] = ("input", "prior", "latents")

    input: str | None = opt(
        None,
        "Pictures to encode and decode in place of held-out images: files with commas between them, a folder, or a quoted "
        "pattern such as '*.png'. The middle of each is resized to the images of the model.",
    )
    prior: bool = opt(
        False,
        "Decode N(0, 1) in place of encoded images. With a KL weight of 1e-6 these are no digits: so weak a KL leaves the "
        "latents where they are.",
    )


@dataclass(frozen=True, kw_only=True)
class VAEEval(EvalOptions):
    """[eval] of vae."""

    samples: int = opt(10000, "Most held-out images that are encoded and decoded.", min=2)


@hookimpl
def diffcli_models() -> Iterable[Spec]:
    yield Spec(
        name="kl-autoencoder",
        target="diffcli_vae.network:KLAutoencoder",
        summary="Convolutional encoder and decoder with a Gaussian between.",
        config=KLAutoencoderOptions,
        family="variational",
        paper="https://arxiv.org/abs/2112.10752",
    )


@hookimpl
def diffcli_methods() -> Iterable[Spec]:
    yield Spec(
        name="vae",
        target="diffcli_vae.method:VAE",
        summary="KL autoencoder: pictures to small latents and back, for others to live in.",
        config=VAEOptions,
        family="variational",
        uses={"model": Use(name="kl-autoencoder"), "dataset": Use(name="digits")},
        sample=VAESample,
        eval=VAEEval,
        metrics={"rate": "diffcli_vae.latents:rate", "latents": "diffcli_vae.latents:statistics"},
        train={"steps": 1500, "batch_size": 64, "lr": 2e-3, "warmup": "50"},
        paper="https://arxiv.org/abs/2112.10752",
    )
