"""The variational bound of a walk of Gaussian steps (Ho et al. 2020, Eq. 5), in bits a dimension: its terms, and its measure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from diffcli.core.process import GaussianProcess, expand
from diffcli.core.random import Rows
from diffcli.engine.precision import autocast
from diffcli.engine.refusals import of_bytes, refusing

if TYPE_CHECKING:
    from diffcli.engine.evaluate import Bench
    from diffcli.engine.records import Record

LEAST = 1e-12  # of a probability whose logarithm is taken
HALF = 1 / 255  # half the distance of two of 256 levels in [-1, 1]
BITS = 1 / math.log(2)  # in a nat


class Steps(NamedTuple):
    """The steps t -> s of a grid, (N,) float64 each; entry 0 is the step to s = 0, entry N - 1 the one from t = 1.

    pull: alpha_s beta_ts/sigma_t^2, what the mean of q(x_s | x_t, x_0) has of x_0. large, small: the logarithms of beta_ts
    and of beta~_ts; beta~ is 0 where s is, and there small is that of the next noisier step (of beta_ts, if there is none).
    """

    t: Tensor
    pull: Tensor
    large: Tensor
    small: Tensor

    def take(self, k: Tensor) -> Steps:
        """The steps numbered k (B,)."""
        return Steps(*(column[k] for column in self))


def steps(process: GaussianProcess, times: Tensor) -> Steps:
    """The steps of a grid of times (N + 1,), from 1 to 0: any grid, for a step needs no more than alpha and sigma at its ends."""
    s, t = times.flip(0)[:-1], times.flip(0)[1:]
    large, small = process.posterior(t, s)
    small[0] = small[1] if len(small) > 1 else large[0]
    return Steps(t, process.alpha(s) * large / process.sigma(t) ** 2, large.log(), small.log())


def log_variance(steps: Steps, mix: Tensor) -> Tensor:
    """log var = f log beta_ts + (1 - f) log beta~_ts, f = (mix + 1)/2 (Nichol and Dhariwal 2021, Eq. 15). steps: one a row of mix (B, *)."""
    return torch.lerp(expand(steps.small, mix), expand(steps.large, mix), (mix + 1) / 2)


def kl(gap: Tensor, log_var: Tensor, other: Tensor) -> Tensor:
    """KL(N(m, exp log_var) || N(m + gap, exp other)) in nats, entry by entry."""
    more = other - log_var
    return 0.5 * (more + torch.expm1(-more) + gap**2 * torch.exp(-other))


def log_likelihood(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log of N(mean, exp log_var) integrated over the bin of x, one of 256 levels in [-1, 1]: nats, entry by entry.

    The bins at -1 and 1 are open outward (Ho et al. 2020, Eq. 13). Each tail is taken on its own side, where its
    probability does not round to 1.
    """
    scale, away = torch.exp(-0.5 * log_var), x - mean
    outward = torch.where(away > 0, 1.0, -1.0)
    far, near = (tail((away.abs() + h) * scale) for h in (HALF, -HALF))
    open_end = (x * outward) > 1 - HALF  # the bin ends on neither side that lies beyond the mean
    open_back = (x * outward) < HALF - 1
    inside = torch.where(open_end, near, torch.where(open_back, 1 - far, near - far))
    return torch.log(inside.clamp(min=LEAST))


def tail(z: Tensor) -> Tensor:
    """P(n > z) of a standard normal n."""
    return 0.5 * torch.special.erfc(z * math.sqrt(0.5))


def terms(steps: Steps, k: Tensor, x_0: Tensor, guess: Tensor, mix: Tensor) -> Tensor:
    """(B,) the terms of the bound for step k (B,) of each row, averaged over dimensions: bits a dimension.

    x_0, guess, mix: (B, *), the truth, the prediction and the raw variance mix. Steps to s > 0: KL(q(x_s | x_t, x_0) ||
    p(x_s | x_t)), whose means differ by `pull` times what x_0 was missed by; the step to s = 0: -log p(x_0 | x_t).
    """
    here = steps.take(k)
    log_var, gap = log_variance(here, mix), expand(here.pull, x_0) * (x_0 - guess)
    last = expand((k == 0).to(x_0.device), x_0).bool()
    small = expand(here.small, x_0)
    nats = torch.where(last, -log_likelihood(x_0, x_0 - gap, log_var), kl(gap, small, log_var))
    return nats.flatten(1).mean(1) * BITS


def prior(process: GaussianProcess, x_0: Tensor) -> Tensor:
    """(B,) KL(q(x_1 | x_0) || the noise that sampling begins with), averaged over dimensions: bits a dimension."""
    one = torch.ones((), dtype=torch.float64)
    share = float(process.alpha(one) / process.sigma(one))
    return 0.5 * share**2 * x_0.flatten(1).square().mean(1) * BITS


QUARTERS = ("t 0-0.25", "t 0.25-0.5", "t 0.5-0.75", "t 0.75-1")


def refuse(bench: Bench) -> None:
    """UsageError where bits a dimension have no meaning, or their error none."""
    of_bytes(bench, "vlb")


@refusing(refuse)
@torch.no_grad()
def measure(bench: Bench) -> Iterator[Record]:
    """The bound of held-out images with x_0 clipped, bits a dimension; its share and the error of eps in each quarter of t."""
    levels, options = bench.options.nll_levels, bench.options
    n, entries = min(options.images, len(bench.test)), bench.model.method.entries
    parts = [bound(bench, items, n, levels) for items in torch.arange(n).split(bench.model.space.rows)]
    bits, squares, shares = (torch.cat(column) for column in zip(*parts, strict=True))  # (n, 4) each
    drawn = levels if 0 < levels < entries - 1 else entries  # see `timesteps`
    about = {"split": bench.test.split, "images": n, "draws": drawn}

    def record(name: str, values: Tensor, unit: str, about: dict[str, object] = about) -> Record:
        error = float(values.std() / math.sqrt(n))
        return bench.record(name, float(values.mean()), unit=unit, standard_error=error, **about)

    yield record("vlb", bits.sum(1), "bits/dim")
    for q, quarter in enumerate(QUARTERS):
        yield record(f"vlb[{quarter}]", bits[:, q], "bits/dim")
    for q, quarter in enumerate(QUARTERS):
        share = shares[:, q].mean()
        if share:  # a mean over timesteps is a ratio of two means over images; its error by linearization
            ratio = squares[:, q].mean() / share
            values = ratio + (squares[:, q] - ratio * shares[:, q]) / share
            yield record(f"vlb[mse, {quarter}]", values, "squared error of eps")


def timesteps(entries: int, levels: int, rng: Rows) -> Iterator[tuple[Tensor, Tensor]]:
    """(timestep (B,), how many it stands for (B,)) until all are spoken for: the last step, then `levels` of the others.

    These are one in each of `levels` equally likely parts of 1 ... T - 1, by a law that is half uniform and half as 1/k, as
    the terms fall: the error is then a fraction of that by the uniform law. With levels 0 all T are taken, each for itself.
    """
    one = torch.ones(len(rng.index), dtype=torch.float64)
    yield torch.zeros_like(one).long(), one
    k = torch.arange(1, entries)
    if not levels or levels >= len(k):
        yield from ((one.long() * number, one) for number in k.tolist())
        return
    law = 0.5 / len(k) + 0.5 / k.double() / (1 / k.double()).sum()
    for m in range(levels):
        jitter = (rng.uniform("jitter", ()).cpu() - 0.5) / rng.total  # anywhere in a stratum, not at its middle
        u = (m + rng.strata(f"time {m}") + jitter) / levels
        place = torch.searchsorted(torch.cumsum(law, 0), u, right=True).clamp(max=len(k) - 1)
        yield k[place], 1 / (levels * law[place])


def bound(bench: Bench, items: Tensor, n: int, levels: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, 4) float64 each, by quarter of t: bits a dimension, the prior's in the last; (F - eps)^2, and timesteps, summed."""
    model, method = bench.model, bench.model.method
    rng, items = Rows(bench.options.seed, items, n), items.to(model.device)
    batch = bench.test.batch(items, items, model.space)
    cond, rows = method.cond(batch, rng), torch.arange(len(items))
    bits, squares, shares = (torch.zeros(len(items), len(QUARTERS), dtype=torch.float64) for _ in range(3))
    bits[:, -1] += prior(method.denoiser.process, batch.x).double().cpu()
    for k, weight in timesteps(method.entries, levels, rng):
        eps = rng.normal("eps", batch.x.shape[1:]).to(model.device)
        with autocast(bench.options.precision, model.device):
            error, term = method.errors(batch, k, eps, cond, clip=1.0)
        quarter = len(QUARTERS) * k // method.entries
        bits[rows, quarter] += weight * term.double().cpu() / method.entries
        squares[rows, quarter] += weight * error.double().cpu()
        shares[rows, quarter] += weight
    return bits, squares, shares
