"""How the shipped classifiers were trained: `python -m diffcli_vision.lenet train mnist`. One thread and one seed give one file."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor, nn

from diffcli.registry import registry
from diffcli_vision.lenet import JUDGES, ROWS, LeNet

BATCH = 256
MOMENTUM, WEIGHT_DECAY, SMOOTHING = 0.85, 1.3e-3, 0.1


class Lesson(NamedTuple):
    """epochs; lr: its peak, of Nesterov's momentum; shift: most pixels a picture is moved by."""

    epochs: int
    lr: float
    shift: int


LESSONS = {
    "digits": Lesson(60, 0.2, 1),
    "mnist": Lesson(7, 0.3, 2),
    "shapes": Lesson(8, 0.3, 2),
    "cifar10": Lesson(9, 0.4, 2),
}


def opened(name: str, split: str) -> tuple[Tensor, Tensor]:
    """Pictures (n, C, H, W) in [-1, 1] and labels (n,) of a split of a data set, with its own defaults."""
    spec = registry().get("dataset", name)
    data = spec.load()(spec.config(), split)
    return data.images.float().div_(data.levels).sub_(0.5).div_(0.5), data.labels


def whitening(x: Tensor) -> Tensor:
    """(8 C, C, 2, 2): principal 2x2 patches of the pictures over the root of their variance, and their negatives."""
    patches = F.unfold(x[:5000], 2).transpose(1, 2).flatten(0, 1).double()
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values + 5e-4).sqrt()).T.float()
    return torch.cat([filters, -filters]).unflatten(1, (x.shape[1], 2, 2))


def norm(channels: int) -> nn.BatchNorm2d:
    """Of the outputs of a convolution, with a learned bias and no learned scale."""
    made = nn.BatchNorm2d(channels, momentum=0.4, eps=1e-5)
    made.weight.requires_grad_(False)
    return made


def seen(x: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Pictures moved by up to `shift` pixels each way, their edges repeated."""
    n, _, height, width = x.shape
    padded = F.pad(x, (shift,) * 4, mode="replicate")
    dy, dx = torch.randint(0, 2 * shift + 1, (2, n), generator=generator)
    rows = (dy[:, None] + torch.arange(height))[:, None, :, None]
    columns = (dx[:, None] + torch.arange(width))[:, None, None, :]
    return padded[torch.arange(n)[:, None, None, None], torch.arange(x.shape[1])[None, :, None, None], rows, columns]


def train(name: str, seed: int = 0, say: Any = print) -> LeNet:
    """The classifier of a data set, with its norms folded into its convolutions."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    judge, lesson = JUDGES[name], LESSONS[name]
    x, label = opened(name, "train")
    net = LeNet(x.shape[1], judge.widths, norm)
    net.whiten.weight.data = whitening(x)
    net.whiten.weight.requires_grad_(False)
    for stage in net.stages:
        for conv in (stage.a, stage.b):
            nn.init.dirac_(conv.weight.data[: conv.in_channels])
            nn.init.zeros_(conv.bias)
            conv.bias.requires_grad_(False)
    weights = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=lesson.lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True)
    total, step, begin = lesson.epochs * (len(x) // BATCH), 0, time.process_time()
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    for epoch in range(lesson.epochs):
        order, loss_sum = torch.randperm(len(x), generator=generator), 0.0
        for items in order[: len(x) // BATCH * BATCH].split(BATCH):
            part = step / total
            optimizer.param_groups[0]["lr"] = lesson.lr * (min(part / 0.25, 1 - (part - 0.25) / 0.75) * 0.95 + 0.05)
            pictures = seen(x[items], lesson.shift, generator)
            if judge.mirror:  # every picture is mirrored in every other epoch (Jordan 2024, Section 3.6)
                turned = (mirrored[items] ^ (epoch % 2 == 1))[:, None, None, None]
                pictures = torch.where(turned, pictures.flip(-1), pictures)
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(pictures)
            loss = F.cross_entropy(logits.float(), label[items], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum, step = loss_sum + float(loss.detach()), step + 1
        say(
            f"{name} epoch {epoch + 1}/{lesson.epochs}  loss {loss_sum / (len(x) // BATCH):.4f}  {time.process_time() - begin:.0f} s"
        )
    return folded(net, judge.widths)


@torch.no_grad()
def folded(net: LeNet, widths: tuple[int, ...]) -> LeNet:
    """The same function with each norm inside the convolution before it: the maximum does not mind a positive scale."""
    made = LeNet(net.whiten.in_channels, widths)
    tensors = net.state_dict()
    for k, stage in enumerate(net.stages):
        for conv, norm in (("a", stage.norm_a), ("b", stage.norm_b)):
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            tensors[f"stages.{k}.{conv}.weight"] *= scale[:, None, None, None]
            tensors[f"stages.{k}.{conv}.bias"] = norm.bias - norm.running_mean * scale
    made.load_state_dict({name: tensors[name] for name in made.state_dict()})
    return made.eval().requires_grad_(False)


def written(net: LeNet, path: Path) -> str:
    """Half-precision weights in a file; its SHA-256."""
    data = save({name: tensor.half().contiguous() for name, tensor in net.state_dict().items()})
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


@torch.inference_mode()
def accuracy(name: str, path: Path) -> float:
    """Of a written classifier on the test split of its data set, as the extractor classifies them, in per cent."""
    judge = JUDGES[name]
    net = LeNet(judge.shape[0], judge.widths).eval()
    net.load_state_dict({key: tensor.float() for key, tensor in load(path.read_bytes()).items()})
    x, label = opened(name, "test")
    logits = torch.cat([net(rows) + (net(rows.flip(-1)) if judge.mirror else 0) for rows in x.split(ROWS)])
    return 100 * float((logits.argmax(1) == label).double().mean())


def main(arguments: list[str]) -> int:
    """train NAME [SEED [FILE]]: writes the classifier; says its hash, and its accuracy on the test split of its data set."""
    command, name, *more = [*arguments, "", ""][: max(2, len(arguments))]
    if command != "train" or name not in LESSONS or len(more) > 2 or not (more[:1] or ["0"])[0].isdecimal():
        print(f"usage: python -m diffcli_vision.lenet train {'|'.join(LESSONS)} [SEED [FILE]]", file=sys.stderr)
        return 2
    path = Path(more[1]) if len(more) > 1 else Path(__file__).parent / "judges" / f"{name}.safetensors"
    sha256 = written(train(name, int(more[0]) if more else 0), path)
    print(f"{path}: {path.stat().st_size} bytes, sha256 {sha256}, {accuracy(name, path):.2f} % of the test images")
    return 0
