"""Denoisers: x_t -> (x_0, eps), and what wraps them. A wrapper asks of the one inside only `process` and the call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from diffcli.core.parameterization import Param
from diffcli.core.process import GaussianProcess, Process, expand

Cond = dict[
    str, Tensor
]  # every value has the batch as its first axis: rows can be selected, concatenated, split over ranks
Coefficient = Callable[[GaussianProcess, Tensor], Tensor]


class Prediction(NamedTuple):
    """x_t = alpha_t x_0 + sigma_t eps, always; mix: raw learned variance, read by ancestral steps."""

    x_0: Tensor
    eps: Tensor
    mix: Tensor | None = None

    def guided(self, weak: Prediction, scale: float) -> Prediction:
        """weak + scale (self - weak); mix is self's (Ho and Salimans 2022, Eq. 6, with scale = 1 + w)."""
        return Prediction(torch.lerp(weak.x_0, self.x_0, scale), torch.lerp(weak.eps, self.eps, scale), self.mix)

    def chunk(self) -> tuple[Prediction, Prediction]:
        """The two halves of a 2B batch."""
        (x_0, weak_x_0), (eps, weak_eps) = self.x_0.chunk(2), self.eps.chunk(2)
        mix, weak_mix = (None, None) if self.mix is None else self.mix.chunk(2)
        return Prediction(x_0, eps, mix), Prediction(weak_x_0, weak_eps, weak_mix)


class Denoiser(Protocol):
    """What a sampler walks on."""

    @property
    def process(self) -> Any: ...

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Any:
        """Prediction, or the MaskedPrediction of a masked process. t: () or (B,); cond is {} when there is none, never None."""


def keeps_scale(process: GaussianProcess) -> bool:
    """True where alpha^2 + sigma^2 stays within [0.3, 3]: the network then needs no scaling of its input."""
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    power = process.alpha(t) ** 2 + process.sigma(t) ** 2
    return bool(((power >= 0.3) & (power <= 3)).all())


def network_input(process: GaussianProcess, sigma_data: float = 0.5) -> tuple[Coefficient, Coefficient]:
    """(c_in, c_noise) of a process, one rule for all.

    Where x_t keeps the scale of the data: c_in = 1, c_noise = 1000 t. Else (Karras et al. 2022, Table 1)
    c_in = 1/sqrt(sigma^2 + sigma_data^2 alpha^2), c_noise = log(sigma/alpha)/4, which a network embeds like any other number.
    """
    if keeps_scale(process):
        return (lambda p, t: torch.ones_like(t)), (lambda p, t: 1000 * t)
    return (
        lambda p, t: torch.rsqrt(p.sigma(t) ** 2 + (sigma_data * p.alpha(t)) ** 2),
        lambda p, t: torch.log(p.ratio(t).clamp(min=1e-8)) / 4,
    )


class Preconditioned(nn.Module):
    """network + process + parameterization = Denoiser.

    net(c_in x_t, c_noise (B,), cond) -> F, and x_0 = (b x_t - sigma F)/det, eps = (alpha F - a x_t)/det with
    det = alpha b - sigma a.
    """

    def __init__(
        self,
        net: nn.Module,
        process: GaussianProcess,
        param: Param,
        *,
        c_in: Coefficient | None = None,
        c_noise: Coefficient | None = None,
    ):
        super().__init__()
        own_in, own_noise = network_input(process)
        self.net, self.process, self.param = net, process, param
        self.c_in, self.c_noise = c_in or own_in, c_noise or own_noise

    def raw(self, x_t: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor | None]:
        """The network's own (F, mix). A subclass with learned variance splits its channels here."""
        c_in, c_noise = expand(self.c_in(self.process, t), x_t), self.c_noise(self.process, t)
        rows = c_noise.to(x_t) if c_noise.ndim else x_t.new_full((len(x_t),), float(c_noise))  # no copy to the device
        return self.net(c_in * x_t, rows, cond).to(x_t.dtype), None

    def solve(self, x_t: Tensor, t: Tensor, f: Tensor, mix: Tensor | None = None) -> Prediction:
        """(x_0, eps) from x_t and F: two equations, two unknowns."""
        p = self.process
        alpha, sigma = p.alpha(t), p.sigma(t)
        a, b = self.param(p, t)
        det = alpha * b - sigma * a
        x_0 = expand(b / det, x_t) * x_t - expand(sigma / det, x_t) * f
        eps = expand(alpha / det, x_t) * f - expand(a / det, x_t) * x_t
        return Prediction(x_0, eps, mix)

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
        return self.solve(x_t, t, *self.raw(x_t, t, cond))

    def error(self, x_0: Tensor, noise: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """(B, *): (F(x_t) - (a x_0 + b eps))^2, NOT reduced: methods weight, mask and average."""
        a, b = (expand(c, x_0) for c in self.param(self.process, t))
        return (self.raw(self.process.diffuse(x_0, noise, t), t, cond)[0] - (a * x_0 + b * noise)) ** 2


class Counted:
    """Counts network calls and rows. Innermost, so that nothing escapes it: NFE = rows / images."""

    def __init__(self, denoiser: Denoiser):
        self.denoiser, self.process = denoiser, denoiser.process
        self.calls = self.rows = 0

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Any:
        self.calls += 1
        self.rows += len(x_t)
        return self.denoiser(x_t, t, cond)


class Guided:
    """weak + scale (strong - weak), in `interval` of t; elsewhere the strong side alone, at half the price.

    weak: the same network at weaken(cond), in one 2B pass or (batched=False) in two; or another `reference` network
    (Karras et al. 2024). Scale 1 is no guidance, 0 the weak side alone; interval: Kynkaanniemi et al. 2024.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float,
        weaken: Callable[[Cond], Cond],
        reference: Denoiser | None = None,
        *,
        interval: tuple[float, float] = (0.0, 1.0),
        batched: bool = True,
    ):
        self.denoiser, self.process, self.scale, self.weaken = denoiser, denoiser.process, scale, weaken
        self.reference, self.interval = reference, interval
        self.batched = batched and reference is None

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Any:
        low, high = self.interval
        always, inside = (low, high) == (0.0, 1.0), (t >= low) & (t <= high)
        if not always and not bool(inside.any()):
            return self.denoiser(x_t, t, cond)
        if always and self.scale == 0:
            return (self.reference or self.denoiser)(x_t, t, self.weaken(cond))
        strong, weak = self.sides(x_t, t, cond)
        guided = strong.guided(weak, self.scale)
        if always or not t.ndim:
            return guided
        rows = [
            (inside.reshape(-1, *(1,) * (s.ndim - 1)), g, s)
            for g, s in zip(guided, strong, strict=True)
            if s is not None
        ]
        return type(strong)(*(torch.where(*row) for row in rows))  # each row by its own time

    def sides(self, x_t: Tensor, t: Tensor, cond: Cond) -> tuple[Any, Any]:
        """(strong, weak) predictions."""
        weak = self.weaken(cond)
        if not self.batched:
            other = self.reference or self.denoiser
            return self.denoiser(x_t, t, cond), other(x_t, t, weak)
        both = {name: torch.cat([value, weak[name]]) for name, value in cond.items()}
        pair = self.denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]) if t.ndim else t, both)
        strong, weaker = pair.chunk()
        return strong, weaker


class Clipped:
    """|x_0| <= bound; eps is solved again, so that the pair still explains x_t; mix untouched."""

    def __init__(self, denoiser: Denoiser, bound: float):
        self.denoiser, self.process, self.bound = denoiser, denoiser.process, bound

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
        pair, p = self.denoiser(x_t, t, cond), self.process
        x_0 = pair.x_0.clamp(-self.bound, self.bound)
        alpha, sigma = expand(p.alpha(t), x_t), expand(p.sigma(t), x_t)
        return Prediction(x_0, torch.where(x_0 == pair.x_0, pair.eps, (x_t - alpha * x_0) / sigma), pair.mix)


class Final:
    """Outermost: the process as a sampler sees it ends at x_0."""

    def __init__(self, denoiser: Denoiser):
        self.denoiser = denoiser
        self.process: Process = denoiser.process.ending()

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Any:
        return self.denoiser(x_t, t, cond)
