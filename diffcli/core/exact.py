"""Exact denoisers of laws in closed form: what a perfect network would say. Samplers are tested and measured on them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from diffcli.core.denoiser import Cond, Prediction
from diffcli.core.masked import MaskedPrediction, substitute
from diffcli.core.process import GaussianProcess, MaskedProcess


class Mixture:
    """x_0 ~ sum_k weight_k N(mean_k, std_k^2 I), as the denoiser of a process.

    weights (K,), means (K, *), stds (K,); computed in float64, answered in the dtype of x_t. Finite at t = 0 and t = 1,
    also where alpha is 0.
    """

    def __init__(self, process: GaussianProcess, weights: Tensor, means: Tensor, stds: Tensor):
        self.process, self.shape = process, means.shape[1:]
        self.weights, self.means, self.stds = weights.double(), means.double().flatten(1), stds.double()
        self.norms = (self.means**2).sum(-1)

    @classmethod
    def random(
        cls,
        process: GaussianProcess,
        size: int,
        modes: int,
        generator: torch.Generator,
        spread: tuple[float, float] = (0.05, 0.3),
    ) -> Mixture:
        """A law of `modes` blobs in `size` dimensions.

        Means uniform in [-1, 1]^size, standard deviations log-uniform between the two of spread, weights 0.2 to 1.2,
        normalized.
        """
        means = 2 * torch.rand(modes, size, dtype=torch.float64, generator=generator) - 1
        low, high = spread
        stds = low * (high / low) ** torch.rand(modes, dtype=torch.float64, generator=generator)
        weights = torch.rand(modes, dtype=torch.float64, generator=generator) + 0.2
        return cls(process, weights / weights.sum(), means, stds)

    def seen(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(joint log densities (B, K), x_t (B, D), variance (B, K), alpha (B, 1), sigma (B, 1)), B = 1 for one t.

        ||x_t - alpha mean||^2 is multiplied out: no (B, K, D) is ever made.
        """
        alpha, sigma = (c.reshape(-1, 1) for c in (self.process.alpha(t.double()), self.process.sigma(t.double())))
        x, variance = x_t.double().flatten(1), (alpha * self.stds) ** 2 + sigma**2
        away = (x**2).sum(-1, keepdim=True) - 2 * alpha * (x @ self.means.T) + alpha**2 * self.norms
        log_prob = -away / (2 * variance) - self.means.shape[1] / 2 * torch.log(2 * math.pi * variance)
        return self.weights.log() + log_prob, x, variance, alpha, sigma

    def log_prob(self, x_t: Tensor, t: Tensor) -> Tensor:
        """(B,) log density of x_t."""
        return self.seen(x_t, t)[0].logsumexp(-1)

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
        """E[x_0 | x_t] and E[eps | x_t]: each component's Gaussian posterior, weighted by how well it explains x_t."""
        joint, x, variance, alpha, sigma = self.seen(x_t, t)
        explains = joint.softmax(-1)  # (B, K)
        pull, share = explains * alpha * self.stds**2 / variance, explains / variance
        x_0 = (explains - alpha * pull) @ self.means + pull.sum(-1, keepdim=True) * x
        eps = sigma * (share.sum(-1, keepdim=True) * x - alpha * (share @ self.means))
        return Prediction(x_0.reshape(x_t.shape).to(x_t.dtype), eps.reshape(x_t.shape).to(x_t.dtype))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, *) samples of x_0, float64."""
        k = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], dtype=torch.float64, generator=generator)
        return (self.means[k] + self.stds[k, None] * noise).reshape(count, *self.shape)


class Joint:
    """x_0 is one of a few sequences, as the denoiser of a masked process: the posterior is a sum over those that fit x_t.

    states (K, L) int64, distinct; probs (K,). Computed and answered in float64. Where no sequence fits, which only a draw
    of several tokens at once can bring about, every token is as likely as it is without x_t.
    """

    def __init__(self, process: MaskedProcess, states: Tensor, probs: Tensor):
        self.process, self.states = process, states
        self.probs = probs.double() / probs.double().sum()
        self.values = F.one_hot(states, process.vocab).double()  # (K, L, V)

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> MaskedPrediction:
        """log p(x_0,i = v | x_t), (B, L, V)."""
        fits = ((x_t[:, None] == self.states) | (x_t == self.process.mask_id)[:, None]).all(-1)  # (B, K)
        weight = torch.where(fits.any(-1, keepdim=True), fits, True) * self.probs
        posterior = torch.einsum("bk,klv->blv", weight / weight.sum(-1, keepdim=True), self.values)
        return MaskedPrediction(substitute(posterior.log(), x_t, self.process.mask_id))

    def share(self, x: Tensor) -> Tensor:
        """(K,) how often each sequence is among x (B, L); what is none of them is left out."""
        return (x[:, None] == self.states).all(-1).double().mean(0)

    def distance(self, x: Tensor) -> float:
        """Total variation between the law of x (B, L), as counted, and the known one."""
        share = self.share(x)
        return float((share - self.probs).abs().sum() + 1 - share.sum()) / 2
