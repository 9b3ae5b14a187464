"""The losses of Improved DDPM (Nichol and Dhariwal 2021, arXiv 2102.09672)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffcli.core import parameterization
from diffcli.core.denoiser import Cond, Preconditioned
from diffcli.core.method import Batch, Labelled, Preview
from diffcli.core.process import GaussianProcess
from diffcli.core.random import Rng
from diffcli.core.space import Space
from diffcli.samplers.grid import FINEST
from diffcli_iddpm import IDDPMOptions
from diffcli_iddpm.bound import Steps, steps, terms

FIXED = {"small": -1.0, "large": 1.0}  # the mix that a fixed variance is
KEPT, UNIFORM = 10, 0.001  # losses of a timestep that importance sampling goes by; share of uniform times
MOST, GUIDED = 20, 2.0  # classes that previews show; their guidance


class LearnedVariance(Preconditioned):
    """The first half of the network's channels is F, the second the raw mix v between the logarithms of beta~ and beta."""

    def raw(self, x_t: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor | None]:
        f, mix = super().raw(x_t, t, cond)[0].chunk(2, 1)
        return f, mix


class Importance(nn.Module):
    """p_i proportional to sqrt(E L_i^2) over the latest losses of each timestep (Nichol and Dhariwal 2021, Eq. 18).

    Uniform until every timestep has KEPT of them. The state is in buffers: checkpoints and a resume carry it.
    """

    squares: Tensor
    seen: Tensor

    def __init__(self, entries: int):
        super().__init__()
        self.register_buffer("squares", torch.zeros(entries, KEPT, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(entries, dtype=torch.int64))

    def law(self) -> Tensor:
        """(T,) float64 on the CPU: the probability of each timestep."""
        entries = len(self.seen)
        if int(self.seen.min()) < KEPT:
            return torch.full((entries,), 1 / entries, dtype=torch.float64)
        size = self.squares.mean(1).sqrt().cpu()
        return torch.lerp(size / size.sum(), torch.full_like(size, 1 / entries), UNIFORM)

    @torch.no_grad()
    def keep(self, k: Tensor, losses: Tensor) -> None:
        """Take note of the losses (B,) of timesteps k (B,), in their order; the oldest give way."""
        order = torch.argsort(k, stable=True)
        k, losses = k[order].to(self.seen.device), losses[order.to(losses.device)].to(self.squares)
        sizes = torch.bincount(k, minlength=len(self.seen))
        first = torch.cumsum(sizes, 0) - sizes
        place = torch.arange(len(k), device=k.device) - first[k]  # among those of the same timestep
        late = place >= sizes[k] - KEPT
        self.squares[k[late], ((self.seen[k] + place) % KEPT)[late]] = losses[late] ** 2
        self.seen += sizes


class IDDPM(Labelled):
    """L_hybrid = L_simple + vlb_weight T L_vlb, the bound without gradient to the mean (Nichol and Dhariwal 2021, Eq. 16).

    Or L_simple alone, with a fixed variance; or T L_vlb alone, with all its gradients.
    """

    def __init__(
        self, config: IDDPMOptions, space: Space, *, model: Callable[..., nn.Module], process: GaussianProcess
    ):
        super().__init__(config.cond == "label", config.label_dropout)
        self.config, channels, learned = config, space.shape[0], config.variance == "learned"
        self.classes = space.classes if self.conditional else 0
        net = model(inputs=channels, outputs=2 * channels if learned else channels, classes=self.classes)
        self.denoiser = (LearnedVariance if learned else Preconditioned)(net, process, parameterization.eps)
        self.entries = process.nodes or FINEST
        times = torch.arange(self.entries, -1, -1, dtype=torch.float64) / self.entries
        self.steps: Steps = steps(process, times)
        self.importance = Importance(self.entries) if config.time_sampling == "importance" else None

    def draw(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """(k (B,), weight (B,)): timesteps 0 ... T - 1 at quantiles u (B,) of their law, and 1/(T p_k)."""
        if self.importance is None or not self.training:
            return torch.floor(u * self.entries).long(), torch.ones_like(u)
        law = self.importance.law()
        k = torch.searchsorted(torch.cumsum(law, 0), u, right=True).clamp(max=self.entries - 1)
        return k, 1 / (self.entries * law[k])

    def errors(
        self, batch: Batch, k: Tensor, eps: Tensor, cond: Cond, clip: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B,) each: the mean of (F - eps)^2, and T times the term of the bound at step k (B,), bits a dimension.

        clip: bound of the predicted x_0 in the second.
        """
        d, t, c = self.denoiser, self.steps.t[k], self.config
        x_t = d.process.diffuse(batch.x, eps, t)
        f, mix = d.raw(x_t, t, cond)
        guess = d.solve(x_t, t, f if c.objective == "vlb" else f.detach()).x_0
        guess = guess if clip is None else guess.clamp(-clip, clip)
        if mix is None:
            mix = torch.full_like(f, FIXED[str(c.variance)])
        return ((f - eps) ** 2).flatten(1).mean(1), self.entries * terms(self.steps, k, batch.x, guess, mix)

    def loss(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        k, weight = self.draw(rng.strata("time"))
        mse, vlb = self.errors(batch, k, rng.normal("eps", batch.x.shape[1:]), self.cond(batch, rng))
        rows = {"simple": mse, "vlb": vlb, "hybrid": mse + self.config.vlb_weight * vlb}[str(self.config.objective)]
        if self.importance is not None and self.training:
            self.importance.keep(rng.everyone(k), rng.everyone(rows.detach()))
        weight = weight.to(rows)
        return {name: (weight * value).mean() for name, value in (("loss", rows), ("mse", mse), ("vlb", vlb))}

    def measures(self, facts: object) -> tuple[str, ...]:
        return ("vlb", *super().measures(facts))

    def preview(self) -> Preview:
        """A few steps of the recipe's own sampler; four of each class, where they are few, and guided: classes show early."""
        images = {"samples": 4 * self.classes} if 0 < self.classes <= MOST else {}
        guided = {"guidance_scale": GUIDED} if self.conditional and self.label_dropout else {}
        return Preview(sample={"steps": min(50, self.entries), **images, **guided})
