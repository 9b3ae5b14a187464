"""MAE-NoProp: a masked autoencoder whose decoders, each for one noise level, complete the image and are trained apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import gcd
from typing import Literal

from diffcli.errors import UsageError
from diffcli.plugin import Spec, Use, hookimpl, opt
from diffcli.sections import EvalOptions, SampleOptions

ASIDE, LARGEST = 8, 16  # patches along a side, and pixels along one of them, that an unset --patch aims at


@dataclass(frozen=True, kw_only=True)
class MAENoPropOptions:
    """[method] of mae-noprop."""

    decoders: int = opt(4, "Decoders T, each for its own noise level.", min=1, max=64)
    levels: Literal["karras", "equiprob"] = opt(
        "equiprob",
        "Of the decoders: one level each (Karras et al. 2022, Eq. 5), or an interval each, all equally probable by --p-mean "
        "and --p-std (after DiffusionBlocks).",
    )
    mask_ratio: float = opt(0.75, "Share of patches that is hidden from the encoder.", min=0, max=1)
    mask_dropout: float = opt(
        0.0, "Share of batches with all patches hidden; above 0, images can be drawn from nothing.", min=0, max=1
    )
    sigma_data: float = opt(0.5, "Standard deviation of the data; 0.5 for images in [-1, 1].", min=0.01, max=100)
    weighting: Literal["edm", "none"] = opt(
        "edm",
        "Of the decoders' losses: the same error of F for all (Karras et al. 2022), or the same error of the image, in which "
        "low noise counts for nothing.",
    )
    encoder_grad: Literal["joint", "detach"] = opt(
        "joint", "What trains the encoder: all decoders, or a plain masked autoencoder's own head."
    )

    @property
    def objective(self) -> str:
        """What the loss is the loss of; those of other levels, weights or masks are other functions."""
        trained = "" if self.encoder_grad == "joint" else ", encoder by itself"
        return f"{self.decoders} {self.levels} levels weighted {self.weighting}, {self.mask_ratio:g} hidden{trained}"


@dataclass(frozen=True, kw_only=True)
class MAESample(SampleOptions):
    """[sample] of mae-noprop: held-out images, or pictures of your own, completed; nothing is clipped."""

    clip: float | None = opt(0.0, "Bound of the predicted x_0; 0 is none.", min=0)
    mask_ratio: float | None = opt(
        None, "Share of patches that is hidden; unset is that of the training, 1 draws from nothing.", min=0, max=1
    )
    input: str | None = opt(
        None,
        "Pictures to complete in place of held-out images: files with commas between them, a folder, or a quoted pattern "
        "such as '*.png'. The middle of each is resized to the images of the model.",
    )

    def __post_init__(self) -> None:
        if self.input is None:
            return
        from diffcli_vision.inputs import count

        if n := count(self.input):
            object.__setattr__(self, "samples", n)


@dataclass(frozen=True, kw_only=True)
class MAEEval(EvalOptions):
    """[eval] of mae-noprop."""

    images: int = opt(2000, "Most held-out images that the loss and the decoders are measured on.", min=2)
    mask_ratio: float | None = opt(
        None, "Share of patches that is hidden; unset is that of the training.", min=0, max=1
    )


@dataclass(frozen=True, kw_only=True)
class MAEDecodersOptions:
    """[model] of mae-decoders. The defaults are small; the published sizes stand in the recipes."""

    width: int = opt(128, "Features of a token of the encoder; heads must divide it, and 4.", min=4, max=8192)
    depth: int = opt(4, "Blocks of the encoder.", min=1, max=128)
    heads: int = opt(4, "Attention heads of the encoder.", min=1, max=256)
    decoder_width: int = opt(64, "Features of a token of a decoder; heads must divide it, and 4.", min=4, max=8192)
    decoder_depth: int = opt(2, "Blocks of each decoder.", min=1, max=128)
    decoder_heads: int = opt(2, "Attention heads of each decoder.", min=1, max=256)
    mlp_ratio: float = opt(4.0, "Features inside an MLP over those of a token.", min=0.25, max=64)
    patch: int | None = opt(
        None,
        "Pixels along a side of a patch; unset is the size of at most 16 that comes nearest to 8 patches a side.",
        min=1,
        max=256,
    )

    def __post_init__(self) -> None:
        for width, heads in (("width", "heads"), ("decoder_width", "decoder_heads")):
            size, parts = getattr(self, width), getattr(self, heads)
            flag, of = (f"--{name.replace('_', '-')}" for name in (width, heads))
            if size % parts or size % 4:
                raise UsageError(
                    f"{flag} {size} must be a multiple of {of} {parts} and of 4, for its heads and for the places of "
                    "patches in the plane; change one"
                )

    @property
    def side(self) -> int:
        """Pixels along a side of a patch, once `fit` has filled it in."""
        return self.patch or 0

    def fit(self, shape: tuple[int, ...]) -> MAEDecodersOptions:
        """The same options with the patch filled in for images of `shape`, and checked.

        The rule: of the sizes up to 16 that divide both sides, the one that makes nearest to 8 patches of the longer side,
        and of two as near the larger. So 16 has patches of 2, 28 and 32 of 4, 64 of 8, and 128 and 224 of 16.
        """
        if len(shape) != 3:
            raise UsageError("a masked autoencoder of images has no patches in sequences; take a data set of images")
        height, width = shape[1:]
        common, longer = gcd(height, width), max(height, width)
        sizes = [p for p in range(1, min(LARGEST, common) + 1) if common % p == 0]
        patch = self.patch or min(sizes, key=lambda p: (abs(longer / p - ASIDE), -p))
        if height % patch or width % patch:
            raise UsageError(
                f"--patch {patch} does not divide images of {height}x{width}; take one of {', '.join(map(str, sizes))}"
            )
        if height == width == patch:
            raise UsageError(
                f"--patch {patch} makes one patch of an image of {height}x{width}, of which none could be hidden and "
                "another seen; take a smaller one"
            )
        return replace(self, patch=patch)


@hookimpl
def diffcli_models() -> Iterable[Spec]:
    yield Spec(
        name="mae-decoders",
        target="diffcli_mae_noprop.network:MAEDecoders",
        summary="ViT encoder of the visible patches, and a separate decoder for each noise level.",
        config=MAEDecodersOptions,
        family="gaussian",
        network="mae-noprop",
        paper="https://arxiv.org/abs/2111.06377",
    )


@hookimpl
def diffcli_methods() -> Iterable[Spec]:
    yield Spec(
        name="mae-noprop",
        target="diffcli_mae_noprop.method:MAENoProp",
        summary="Masked autoencoder by denoising: decoders of their own noise levels complete the image.",
        config=MAENoPropOptions,
        family="gaussian",
        network="mae-noprop",
        uses={
            "model": Use(name="mae-decoders"),
            # Of equiprob: borders at 5.6, 1.55 and 0.41. With p_mean -1.2 and p_std 1.2 of Karras et al. 2022 the first
            # decoder, which completes from nothing but what is seen, hardly meets its upper end, where walks begin: PSNR of
            # hidden patches after the first step 12.8 dB, 15.7 with these, 13.5 of the mean colour (see levels.py).
            "schedule": Use(name="edm", options={"p_mean": 0.5, "p_std": 2.0}),
            "dataset": Use(name="shapes"),
            "sampler": Use(name="renoise"),
        },
        train={
            "steps": 900,
            "batch_size": 64,
            "lr": 2e-3,
            "warmup": "50",
            "weight_decay": 0.05,
            "clip_grad": 0.0,
            "precision": "bf16",  # half the time of float32 on a CPU (Zen 5), whose attention is slow among 64 tokens
        },
        sample=MAESample,
        eval=MAEEval,
        metrics={
            "decoders": "diffcli_mae_noprop.measure:decoders",
            "walk": "diffcli_mae_noprop.measure:walk",
            "flops": "diffcli_mae_noprop.measure:flops",
            "gradients": "diffcli_mae_noprop.measure:gradients",
        },
        plots={
            "frames": "diffcli_mae_noprop.figures:frames",
            "attention": "diffcli_mae_noprop.figures:attention",
        },
        paper="https://arxiv.org/abs/2503.24322",
    )
