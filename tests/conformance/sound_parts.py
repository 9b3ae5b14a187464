"""What the specs of sound_plugin.py name."""

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from diffcli.core.denoiser import Preconditioned
from diffcli.core.masked import MaskedDenoiser, categorical
from diffcli.core.method import Batch, Labelled, Method, Preview
from diffcli.core.parameterization import slope as straight
from diffcli.core.process import GaussianProcess, MaskedProcess
from diffcli.core.random import shuffled
from diffcli.nn.embedding import LabelEmbedding
from diffcli.samplers.base import Sampler
from diffcli.samplers.frame import clock, frame, slope

SIDE = 4


class Line(GaussianProcess):
    ratio_min, ratio_max = 0.005, 80.0

    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return t


class Squared(MaskedProcess):
    def rate(self, t):
        return t**2


def line(config, space):
    return Line()


def mask(config, space):
    return Squared(space.vocab)


class Net(nn.Module):
    def __init__(self, config, space, *, inputs, outputs, classes=0):
        super().__init__()
        self.first = nn.Conv2d(inputs + 1, config.width, 3, padding=1)
        self.label = LabelEmbedding(classes, config.width) if classes else None
        self.last = nn.Conv2d(config.width, outputs, 3, padding=1)

    def forward(self, x, c_noise, cond):
        level = (c_noise / 1000)[:, None, None, None].expand(-1, 1, *x.shape[2:])
        h = self.first(torch.cat([x, level], 1))
        if self.label is not None:
            h = h + self.label(cond["label"])[:, :, None, None]
        return self.last(F.silu(h))


class Logits(nn.Module):
    def __init__(self, config, space, *, classes=0):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(*space.shape, space.vocab))
        self.label = LabelEmbedding(classes, space.vocab) if classes else None

    def forward(self, x_t, c_noise, cond):
        logits = self.logits.expand(len(x_t), -1, -1)
        return logits if self.label is None else logits + self.label(cond["label"])[:, None]


class Flow(Labelled):
    def __init__(self, config, space, *, model, process):
        super().__init__(config.cond == "label", 0.1)
        self.weight, channels = config.weight, space.shape[0]
        net = model(inputs=channels, outputs=channels, classes=space.classes if self.conditional else 0)
        self.denoiser = Preconditioned(net, process, straight)

    def preview(self):
        return Preview(sample={"steps": 3})

    def loss(self, batch, rng):
        t, eps = rng.strata("time"), rng.normal("eps", batch.x.shape[1:])
        error = self.denoiser.error(batch.x, eps, t, self.cond(batch, rng))
        return {"loss": self.weight * error.mean()}


class Fill(Method):
    def __init__(self, config, space, *, model, process):
        super().__init__()
        self.denoiser = MaskedDenoiser(model(), process)

    def preview(self):
        return Preview(sample={"steps": 3})

    def loss(self, batch, rng):
        t = rng.strata("time")
        x_t = self.denoiser.process.mask(batch.x, t, rng.uniform("mask", batch.x.shape[1:]))
        log_probs = self.denoiser(x_t, t, {}).log_probs
        return {"loss": F.nll_loss(log_probs.flatten(0, 1), batch.x.flatten())}


class Solver(Sampler):
    family, order = "gaussian", 2

    def nfe(self, steps):
        return 2 * steps

    def step(self, denoiser, x_t, point, *, cond, state, rng):
        t, s = point
        process = denoiser.process
        (a, u), (b, v) = frame(process, t), frame(process, s)
        m = clock(process, (u + v) / 2)
        c = frame(process, m)[0]
        y = x_t / a
        w = slope(process, denoiser(x_t, t, cond))
        w_m = slope(process, denoiser(c * (y + (v - u) / 2 * w), m, cond))
        return b * (y + (v - u) * w_m), state


class Walk(Sampler):
    family = "gaussian"

    def step(self, denoiser, x_t, point, *, cond, state, rng):
        t, s = point
        process, pair = denoiser.process, denoiser(x_t, t, cond)
        small = process.posterior(t, s)[1].clamp(min=0)
        eps = torch.sqrt((process.sigma(s) ** 2 - small).clamp(min=0))
        z = rng.normal("step", x_t.shape[1:], x_t.dtype)
        return process.alpha(s) * pair.x_0 + eps * pair.eps + torch.sqrt(small) * z, state


class Reveal(Sampler):
    family = "masked"

    def step(self, denoiser, x_t, point, *, cond, state, rng):
        t, s = point
        stay, _ = denoiser.process.posterior(t, s)
        drawn = categorical(denoiser(x_t, t, cond).log_probs, rng.uniform("value", x_t.shape[1:]))
        masked = x_t == denoiser.process.mask_id
        reveal = masked & (rng.uniform("reveal", x_t.shape[1:]) >= stay)
        return torch.where(reveal, drawn, x_t), state


def solver(config):
    return Solver()


def walk(config):
    return Walk()


def reveal(config):
    return Reveal()


class Data:
    name, shape, classes, class_names = "sound-data", (1, SIDE, SIDE), 2, ("dark", "bright")

    def __init__(self, split, first):
        self.split = f"sound-data/{split}"
        noise = torch.rand(32, *self.shape, generator=torch.Generator().manual_seed(first))
        self.labels = (torch.arange(32) % 4 > 0).long()
        self.images = (noise + self.labels[:, None, None, None]) - 1

    def __len__(self):
        return len(self.images)

    def to(self, device):
        return self

    def items(self, seed, index):
        return shuffled(seed, index, len(self))

    def batch(self, items, index, space):
        return Batch(index, space.encode(self.images[items]), self.labels[items])


def data(config, split):
    return Data(split, {"train": 0, "test": 1}[split])


def mean(bench):
    yield {"metric": "sound-mean", "value": float(bench.samples.x.mean())}


def plain(bench):
    return Image.new("L", (8, 8))


class Eye:
    name, sha256, resizer, size, classes = "sound-eye", "", "none", 6, 0

    def __init__(self, config, facts):
        numbers = torch.Generator().manual_seed(0)
        self.weight = torch.randn(facts.shape[0], self.size, generator=numbers)

    def features(self, x):
        return x.mean((2, 3)) @ self.weight

    def classify(self, x):
        raise NotImplementedError


class Log:
    def __init__(self, config):
        self.lines = []

    def start(self, run, tables):
        self.path = run / "sound.txt"
        self.write("start")

    def log(self, row):
        self.write(row["step"])

    def picture(self, step, path):
        self.write(path.name)

    def write(self, line):
        self.path.write_text((self.path.read_text() if self.path.exists() else "") + f"{line}\n")

    def close(self):
        self.write("end")
