"""Masked diffusion autoencoder (mDiffAE, 2026): pictures to small latents, and back in one step of diffusion."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from diffcli.errors import UsageError
from diffcli.plugin import Spec, Use, hookimpl, opt
from diffcli.sections import EvalOptions
from diffcli_vision.reconstructing import ReconstructionSample

LARGE = 128  # pixels a side from which on the network is the published one
PUBLISHED = {"patch_size": 16, "width": 896, "mlp_ratio": 4, "kernel": 7, "adaln_rank": 128}
SMALL = {"width": 96, "mlp_ratio": 2, "kernel": 5, "adaln_rank": 16}


@dataclass(frozen=True, kw_only=True)
class DiCoOptions:
    """[model] of dico-autoencoder. What is unset goes by the size of the images, see `fit`."""

    patch_size: int | None = opt(None, "Pixels a side of a patch, which becomes one token.", min=1, max=64)
    width: int | None = opt(None, "Channels of the blocks.", min=4, max=8192)
    encoder_depth: int | None = opt(None, "Blocks of the encoder.", min=1, max=64)
    decoder_depth: int | None = opt(None, "Blocks of the decoder.", min=1, max=64)
    latent_channels: int | None = opt(None, "Channels of the latents.", min=1, max=4096)
    mlp_ratio: int | None = opt(None, "Channels inside an MLP over --width.", min=1, max=16)
    kernel: int | None = opt(None, "Tokens a side of the depthwise convolutions, an odd number.", min=1, max=63)
    adaln_rank: int | None = opt(None, "Rank of what each decoder block adds to the shared modulation.", min=1)
    topology: Literal["flat", "skip"] = opt(
        "flat", "The decoder: blocks in a row (v1), or start, middle and end with a skip around the middle (v2)."
    )

    def fit(self, shape: tuple[int, ...]) -> DiCoOptions:
        """The same options with what is unset filled in for images of `shape`, and checked.

        The rule: images of 128 a side or more get the published network: patches of 16, width 896, depths 4 and 4 (8
        with the topology skip), mlp_ratio 4, kernel 7, rank 128. Smaller ones get the largest patch of 8, 4, 2 or 1 that
        divides both sides and leaves 4 tokens a side, width 96, depths 2 and 2 (4), mlp_ratio 2, kernel 5, rank 16.
        Latents of large images hold 12 times fewer numbers (8 with the topology skip), those of small ones 6 times, in 4
        channels or more: the norm of one channel leaves its sign alone.
        """
        if len(shape) != 3:
            raise UsageError("an autoencoder of images has nothing to encode in sequences; take a data set of images")
        sides, skip = shape[1:], self.topology == "skip"
        large = min(sides) >= LARGE
        fitting = [p for p in (8, 4, 2, 1) if not any(side % p for side in sides) and min(sides) >= 4 * p]
        depth = 4 if large else 2
        known: dict[str, Any] = {"patch_size": next(iter(fitting), 1), **(PUBLISHED if large else SMALL)}
        known |= {"encoder_depth": depth, "decoder_depth": 2 * depth if skip else depth}
        made = replace(self, **{key: value for key, value in known.items() if getattr(self, key) is None})
        if made.z == 0:
            fewer = (8 if skip else 12) if large else 6
            made = replace(made, latent_channels=max(4, round(shape[0] * made.p**2 / fewer)))
        made.check(shape)
        return made

    def check(self, shape: tuple[int, ...]) -> None:
        """UsageError for what cannot be built for images of `shape`."""
        if shape[1] % self.p or shape[2] % self.p:
            raise UsageError(
                f"--patch-size {self.p} does not divide images of {shape[1]}x{shape[2]}; give one that divides both sides"
            )
        if self.k % 2 == 0:
            raise UsageError(f"--kernel {self.k} is even, and has no middle; give an odd number")
        if self.topology == "skip" and self.decoder < 3:
            raise UsageError(
                f"--topology skip has blocks before, in and after its middle, but --decoder-depth is {self.decoder}; "
                "give 3 or more"
            )

    p = property(lambda self: self.patch_size or 1, doc="Pixels a side of a patch.")
    d = property(lambda self: self.width or 0, doc="Channels of the blocks.")
    z = property(lambda self: self.latent_channels or 0, doc="Channels of the latents.")
    k = property(lambda self: self.kernel or 1, doc="Side of the depthwise convolutions.")
    rank = property(lambda self: self.adaln_rank or 0, doc="Of what a block adds to the modulation.")
    hidden = property(lambda self: self.d * (self.mlp_ratio or 0), doc="Channels inside an MLP.")
    encoder = property(lambda self: self.encoder_depth or 0, doc="Blocks of the encoder.")
    decoder = property(lambda self: self.decoder_depth or 0, doc="Blocks of the decoder.")

    @property
    def split(self) -> tuple[int, int, int]:
        """Blocks before the middle, in it and after it: 2, 4 and 2 of 8."""
        ends = max(1, self.decoder // 4)
        return ends, self.decoder - 2 * ends, ends


@dataclass(frozen=True, kw_only=True)
class MDiffAEOptions:
    """[method] of mdiffae."""

    mask_prob: float = opt(0.5, "Share of training images of whose tokens three in four are hidden.", min=0, max=1)
    latent_noise_prob: float = opt(0.1, "Share of training images whose latents are mixed with noise.", min=0, max=1)
    path_drop_prob: float = opt(
        0.1, "Share of training images that skip the middle blocks; of --topology skip.", min=0, max=1
    )
    final_time_share: float = opt(
        0.1, "Share of training images at t = 1, where one-step decoding starts.", min=0, max=1
    )
    weighting: Literal["x0", "sigmoid"] = opt(
        "x0", "Of the squared error over t: even, or by the sigmoid of the log-SNR (Hoogeboom et al. 2024)."
    )


@dataclass(frozen=True, kw_only=True)
class MDiffAESample(ReconstructionSample):
    """[sample] of mdiffae: held-out images and what comes back of them, or pictures or latents of your own."""

    guidance_scale: float = opt(
        1.0,
        "Path-drop guidance w, weak + w (full - weak), away from a weaker decoder: 1 is none, 1.01 to 1.05 are useful.",
        min=0,
    )
    pdg: Literal["token", "path"] | None = opt(
        None,
        "The weaker decoder: three in four tokens hidden, or, of --topology skip, the middle blocks left out; unset is "
        "path where there is one.",
    )
    clip: float | None = opt(0.0, "Bound of the predicted x_0; 0 is none.", min=0)


@dataclass(frozen=True, kw_only=True)
class MDiffAEEval(EvalOptions):
    """[eval] of mdiffae."""

    samples: int = opt(10000, "Most held-out images that are encoded and decoded.", min=2)
    clip: float | None = opt(0.0, "Bound of the predicted x_0; 0 is none.", min=0)
    pdg: Literal["token", "path"] | None = opt(None, "The weaker decoder of guidance, as in sampling.")


@hookimpl
def diffcli_models() -> Iterable[Spec]:
    yield Spec(
        name="dico-autoencoder",
        target="diffcli_mdiffae.network:DiCoAutoencoder",
        summary="Convolutional encoder and diffusion decoder of DiCo blocks.",
        config=DiCoOptions,
        family="gaussian",
        network="mdiffae",
        paper="https://arxiv.org/abs/2505.11196",
    )


@hookimpl
def diffcli_methods() -> Iterable[Spec]:
    yield Spec(
        name="mdiffae",
        target="diffcli_mdiffae.method:MDiffAE",
        summary="Masked diffusion autoencoder: pictures to small latents, and back in one step of diffusion.",
        config=MDiffAEOptions,
        family="gaussian",
        network="mdiffae",
        uses={
            "model": Use(name="dico-autoencoder"),
            # 0.558 is the standard deviation of noise of the published model.
            "schedule": Use(name="logsnr-cosine", options={"noise_std": 0.558}),
            "dataset": Use(name="shapes"),
            "sampler": Use(name="ddim"),
        },
        sample=MDiffAESample,
        eval=MDiffAEEval,
        metrics={
            "steps": "diffcli_mdiffae.measure:steps",
            "guided": "diffcli_mdiffae.measure:guided",
            "speed": "diffcli_mdiffae.measure:speed",
            "latents": "diffcli_mdiffae.measure:statistics",
        },
        card="diffcli_mdiffae.card:card",
        plots={"rows": "diffcli_mdiffae.figures:rows"},
        train={"steps": 3000, "batch_size": 64, "lr": 3e-3, "warmup": "50", "beta2": 0.99, "weight_decay": 0.0},
        paper="https://arxiv.org/abs/2505.11196",
    )
