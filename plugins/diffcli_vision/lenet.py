"""Small classifiers that know a data set each: features to compare pictures in, and a judge of their classes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffcli.engine.files import read_capped
from diffcli.engine.weights import load_into, unpack
from diffcli.errors import DiffcliError, PluginError, UsageError, show
from diffcli.metrics.features import resize, resizing

LARGEST = 2**20  # bytes of a judge's file
ROWS = 500  # pictures at a time
LUMA = (0.299, 0.587, 0.114)  # grey of red, green and blue (Rec. 601)


class Judge(NamedTuple):
    """A shipped classifier: its input, its network, and what it reached on the test split of its data set, in per cent.

    shape: (C, H, W) it was trained on; widths: channels of its stages; mirror: whether a picture means the same mirrored.
    """

    shape: tuple[int, int, int]
    widths: tuple[int, ...]
    mirror: bool
    accuracy: float
    sha256: str


# Each was made from the training images by `python -m diffcli_vision.lenet train NAME`: seed 0, one thread, torch 2.13.0, an
# AMD Zen 5 CPU with bfloat16, in 3 s, 200 s, 16 s and 674 s of its time. Another machine rounds otherwise: same command, same
# accuracy within a few tenths, another hash.
JUDGES = {
    "digits": Judge(
        (1, 8, 8), (32, 64), False, 98.89, "5ca6828e951cf01366f3ebd0ef7511403c4c90a912551723ec7e1a967de43627"
    ),
    "mnist": Judge(
        (1, 28, 28), (24, 48, 64), False, 99.60, "d1a60060ee929aea2a9e949f1c92df6fbec2f6e3ff32188240d45f84a512d0f6"
    ),
    "shapes": Judge(
        (3, 16, 16), (32, 48, 64), False, 100.0, "584e2af9e47757dd0302d96fc832d3c78fc65804e9f1681ffb01eb1bbf5172cd"
    ),
    "cifar10": Judge(
        (3, 32, 32), (48, 96, 128), True, 91.27, "7a6ba85f81de041b97dfe01c0bc1eef9dd2f588da667f0d534e5d17134c038d0"
    ),
}
CLASSES = 10


class Stage(nn.Module):
    """Two 3x3 convolutions, the first halving the map, each with its norm and GELU (Jordan 2024, Section 3)."""

    def __init__(self, inputs: int, outputs: int, norm: Any):
        super().__init__()
        self.a = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.b = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm_a, self.norm_b = norm(outputs), norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm_a(F.max_pool2d(self.a(x), 2)))
        return F.gelu(self.norm_b(self.b(x)))


class LeNet(nn.Module):
    """A convolutional classifier in the line of LeCun et al. 1998, with a whitening first layer (Jordan 2024, arXiv 2404.00498).

    norm: of each convolution, by its channels; what is shipped has it folded into the weights.
    """

    def __init__(self, channels: int, widths: tuple[int, ...], norm: Any = lambda channels: nn.Identity()):
        super().__init__()
        first = 8 * channels  # the 4 C principal patches of 2x2 pixels and their negatives
        self.whiten = nn.Conv2d(channels, first, 2)
        self.stages = nn.ModuleList(Stage(a, b, norm) for a, b in zip((first, *widths), widths, strict=False))
        self.head = nn.Linear(widths[-1], CLASSES)

    def features(self, x: Tensor) -> Tensor:
        """(n, C, H, W) in [-1, 1] -> (n, widths[-1]): the largest activation of each channel."""
        x = F.gelu(self.whiten(x))
        for stage in self.stages:
            x = stage(x)
        return x.amax((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Class logits (n, 10)."""
        return self.head(self.features(x))


class Extractor:
    """The classifier of a data set as a feature extractor and a judge; known by the name of the data set.

    Pictures of another size are resized to the judge's, grey ones become colours, and colours grey, where it needs that.
    """

    name, classes = "lenet", CLASSES

    def __init__(self, config: Any, facts: Any):
        """facts: engine.assemble.Facts of the data. UsageError where there is no judge for them."""
        judge = JUDGES.get(facts.name)
        if judge is None or facts.alphabet:
            raise UsageError(
                f"lenet knows {', '.join(JUDGES)}, but these data are {show(facts.name, 80)}; use --extractor pixels"
            )
        if facts.shape[0] not in (1, 3):
            raise UsageError(
                f"lenet takes grey or RGB pictures, but these have {facts.shape[0]} channels; use --extractor pixels"
            )
        self.judge, (channels, self.height, self.width) = judge, judge.shape
        self.net = shipped(facts.name)
        self.sha256, self.size = judge.sha256, judge.widths[-1]
        self.resizer = resizing(facts.shape, self.height, self.width)
        if facts.shape[0] != channels:
            self.resizer += ", grey" if channels == 1 else ", grey as RGB"

    @torch.inference_mode()
    def features(self, x: Tensor) -> Tensor:
        return torch.cat([self.net.features(self.seen(rows)) for rows in x.split(ROWS)])

    @torch.inference_mode()
    def classify(self, x: Tensor) -> Tensor:
        parts = [self.net(self.seen(rows)) for rows in x.split(ROWS)]
        if self.judge.mirror:
            mirrored = (self.net(self.seen(rows).flip(-1)) for rows in x.split(ROWS))
            parts = [a + b for a, b in zip(parts, mirrored, strict=True)]
        return torch.cat(parts).argmax(1)

    def seen(self, x: Tensor) -> Tensor:
        """Pictures as the network knows them."""
        channels = self.judge.shape[0]
        if x.shape[1] == 3 and channels == 1:
            x = torch.einsum("nchw,c->nhw", x, x.new_tensor(LUMA))[:, None]
        return resize(x, self.height, self.width).expand(-1, channels, -1, -1)


def shipped(name: str) -> LeNet:
    """The pinned network of a data set. PluginError where the file is not the one that was shipped."""
    judge, path = JUDGES[name], Path(__file__).parent / "judges" / f"{name}.safetensors"
    net = LeNet(judge.shape[0], judge.widths).half()
    try:
        data = read_capped(path, LARGEST)
        if hashlib.sha256(data).hexdigest() != judge.sha256:
            raise PluginError(f"{show(path)} is not the judge that was shipped: its SHA-256 differs; reinstall diffcli")
        load_into(net, unpack(data, str(path)), str(path))
    except PluginError:
        raise
    except DiffcliError as error:
        raise PluginError(f"the judge of {name} cannot be used: {error}; reinstall diffcli") from None
    return net.float().eval().requires_grad_(False)


if __name__ == "__main__":
    import sys

    from diffcli_vision.teach import main

    sys.exit(main(sys.argv[1:]))
