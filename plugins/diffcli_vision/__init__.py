"""What several methods share: the U-Net and the data sets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from diffcli.errors import UsageError
from diffcli.plugin import Spec, Use, hookimpl, opt
from diffcli_vision.options import FolderOptions as FolderOptions
from diffcli_vision.options import HubOptions as HubOptions
from diffcli_vision.options import PictureOptions as PictureOptions
from diffcli_vision.options import ShardsOptions as ShardsOptions


@dataclass(frozen=True, kw_only=True)
class UNetOptions:
    """[model] of unet. lowest: pixels a side of the smallest map of the levels that `fit` chooses."""

    lowest: ClassVar[int] = 4

    channels: int = opt(32, "Channels of the first level, an even number.", min=4, max=4096)
    multipliers: tuple[int, ...] | None = opt(
        None,
        "Channels of each level over those of the first: 1,2,3,3; unset goes by the size of the image.",
        min=1,
        max=64,
    )
    blocks: int = opt(1, "Residual blocks a level.", min=1, max=64)
    attention: tuple[int, ...] | None = opt(
        None, "Levels with attention, one 0 or 1 each: 0,0,0,1; unset is the lowest level alone.", min=0
    )
    head_channels: int = opt(32, "Channels of an attention head; one head where they do not divide a level.", min=1)
    dropout: float = opt(0.0, "Share of features dropped inside each residual block.", min=0, max=0.9)

    def fit(self, shape: tuple[int, ...]) -> UNetOptions:
        """The same options with multipliers and attention filled in for images of `shape`, and checked.

        The rule: as many levels as keep the lowest map at `lowest` pixels a side or more, at most four, with multipliers
        1,2,3,3 from the top, and attention at the lowest level alone. So, of 4 pixels, 28 and 32 have four levels, 16
        three, 8 two, 4 one.
        """
        if len(shape) != 3:
            raise UsageError("a U-Net works on images, but these data are sequences; use --model mask-transformer")
        levels = max(n for n in (1, 2, 3, 4) if n == 1 or -(-min(shape[1:]) // 2 ** (n - 1)) >= self.lowest)
        multipliers = (1, 2, 3, 3)[:levels] if self.multipliers is None else self.multipliers
        attention = (0,) * (len(multipliers) - 1) + (1,) if self.attention is None else self.attention
        if self.channels % 2:
            raise UsageError(
                f"--channels {self.channels} is odd, but the time embedding is half sines, half cosines; use an even number"
            )
        if not 1 <= len(multipliers) <= 8:
            raise UsageError(f"--multipliers has {len(multipliers)} levels; a U-Net here has 1 to 8")
        if len(attention) != len(multipliers) or not set(attention) <= {0, 1}:
            raise UsageError(
                f"--attention {comma(attention)} does not go with --multipliers {comma(multipliers)}; "
                f"use one 0 or 1 for each of the {len(multipliers)} levels"
            )
        return replace(self, multipliers=multipliers, attention=attention)


def comma(numbers: tuple[float, ...]) -> str:
    """(1, 2) -> 1,2: as on the command line."""
    return ",".join(map(str, numbers))


@dataclass(frozen=True, kw_only=True)
class DigitsOptions:
    """[dataset] of digits."""

    size: int = opt(8, "Pixels a side: 8 as published, more are between them (bicubic).", min=8, max=64)


@dataclass(frozen=True, kw_only=True)
class ShapesOptions:
    """[dataset] of shapes."""

    size: int = opt(16, "Pixels a side.", min=8, max=256)


@dataclass(frozen=True, kw_only=True)
class NamedOptions:
    """[dataset] of a set that is read from files, or downloaded once."""

    data_dir: Path | None = opt(
        None, "Folder that holds the named data sets; unset is DIFFCLI_DATA, then the user's cache, where downloads go."
    )


@dataclass(frozen=True, kw_only=True)
class ColorOptions(NamedOptions):
    """[dataset] of cifar10."""

    flip: bool = opt(False, "Mirror each training image left to right half of the time.")
    crop: int | None = opt(
        None,
        "Pixels a side of a window of each image: at random in training, the middle elsewhere; unset is the whole.",
        min=4,
        max=32,
    )


@dataclass(frozen=True, kw_only=True)
class TextOptions(NamedOptions):
    """[dataset] of text."""

    path: Path | None = opt(
        None,
        "UTF-8 text file; a relative one is looked for here, then in --data-dir or DIFFCLI_DATA, and in the cache. "
        "tinyshakespeare/input.txt is downloaded where it is missing (1.1 MB).",
    )
    length: int = opt(256, "Characters of a window.", min=2, max=65536)
    splits: tuple[float, ...] = opt(
        (0.9, 0.0, 0.1), "Shares of the text for training, validation and test, in its order; 1 in all.", min=0, max=1
    )

    def __post_init__(self) -> None:
        if len(self.splits) != 3 or abs(sum(self.splits) - 1) > 1e-6:
            raise UsageError(
                f"--splits {comma(self.splits)} are not three shares that make 1; write training, validation and test: 0.9,0,0.1"
            )


@hookimpl
def diffcli_models() -> Iterable[Spec]:
    yield Spec(
        name="unet",
        target="diffcli_vision.unet:UNet",
        summary="Convolutional U-Net with time embedding, and attention at low resolution.",
        config=UNetOptions,
        family="gaussian",
        paper="https://arxiv.org/abs/2006.11239",
    )


@hookimpl
def diffcli_datasets() -> Iterable[Spec]:
    yield Spec(
        name="digits",
        target="diffcli_vision.digits:digits",
        summary="1,797 handwritten digits, 8x8 grey, embedded.",
        config=DigitsOptions,
        paper="https://doi.org/10.24432/C50P49",
    )
    yield Spec(
        name="shapes",
        target="diffcli_vision.shapes:shapes",
        summary="12,000 colored shapes of ten kinds, 16x16 RGB, drawn on the spot.",
        config=ShapesOptions,
    )
    yield Spec(
        name="mnist",
        target="diffcli_vision.named:mnist",
        summary="70,000 handwritten digits, 28x28 grey; 12 MB on first use.",
        config=NamedOptions,
        paper="http://yann.lecun.com/exdb/mnist",
    )
    yield Spec(
        name="fashion-mnist",
        target="diffcli_vision.named:fashion_mnist",
        summary="70,000 pictures of clothes, 28x28 grey; 31 MB on first use.",
        config=NamedOptions,
        paper="https://arxiv.org/abs/1708.07747",
    )
    yield Spec(
        name="cifar10",
        target="diffcli_vision.named:cifar10",
        summary="60,000 photographs of ten kinds, 32x32 RGB; 170 MB on first use.",
        config=ColorOptions,
        paper="https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf",
    )
    yield Spec(
        name="folder",
        target="diffcli_vision.folder:folder",
        summary="Your own images: --path FOLDER, flat or one folder a class.",
        config=FolderOptions,
        tools={"check": "diffcli_vision.checking:folder", "pack": "diffcli_vision.sharded.packing:pack"},
    )
    yield Spec(
        name="shards",
        target="diffcli_vision.sharded.shards:shards",
        summary="Your own images in tar files, or those of the Hub: --path PATTERN, in the layout of WebDataset.",
        config=ShardsOptions,
        tools={"check": "diffcli_vision.checking:tars"},
        paper="https://github.com/webdataset/webdataset",
    )
    yield Spec(
        name="hub",
        target="diffcli_vision.sharded.streamed:streamed",
        summary="Images of a data set of the Hub, streaming: --path OWNER/NAME; needs the package datasets.",
        config=HubOptions,
        tools={"check": "diffcli_vision.checking:streams"},
        paper="https://huggingface.co/docs/datasets",
    )
    yield Spec(
        name="text",
        target="diffcli_vision.text:text",
        summary="Your own text: --path FILE, as windows of characters.",
        config=TextOptions,
        family="masked",
        uses={
            "model": Use(name="mask-transformer", options={"width": 192, "depth": 4, "heads": 6}),
            "sampler": Use(name="first-hitting", options={"temperature": 0.5}),
        },
        train={
            "steps": 3600,
            "batch_size": 32,
            "lr": 6e-3,
            "warmup": "100",
            "weight_decay": 0.1,
            "beta2": 0.95,
            "ema": 0.998,
            "precision": "bf16",
            "save_every": "600",
        },
    )


@hookimpl
def diffcli_extractors() -> Iterable[Spec]:
    yield Spec(
        name="lenet",
        target="diffcli_vision.lenet:Extractor",
        summary="Small classifiers of digits, mnist, shapes and cifar10: their features, and a judge of classes.",
        paper="https://doi.org/10.1109/5.726791",
    )
