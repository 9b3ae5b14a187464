"""Denoisers of tokens, and exact draws from what they say (Sahoo et al. 2024; Zheng et al. 2024)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffcli.core.denoiser import Cond
from diffcli.core.process import MaskedProcess

FLOOR = -1e4  # of log-probabilities that are combined: its exponential is 0, and differences stay finite


class MaskedPrediction(NamedTuple):
    """log_probs (B, L, V) of each token of x_0: no mass on [MASK], revealed tokens certain."""

    log_probs: Tensor

    def guided(self, weak: MaskedPrediction, scale: float) -> MaskedPrediction:
        """weak + scale (self - weak) in log space, renormalized; impossible tokens stay so."""
        mixed = torch.lerp(weak.log_probs.clamp(min=FLOOR), self.log_probs.clamp(min=FLOOR), scale)
        return MaskedPrediction(mixed.log_softmax(-1))

    def chunk(self) -> tuple[MaskedPrediction, MaskedPrediction]:
        """The two halves of a 2B batch."""
        strong, weak = self.log_probs.chunk(2)
        return MaskedPrediction(strong), MaskedPrediction(weak)


def substitute(log_probs: Tensor, x_t: Tensor, mask_id: int) -> Tensor:
    """SUBS (Sahoo et al. 2024, Section 3.2.3): where x_t (B, L) is revealed, log p = 0 for the value there, -inf elsewhere."""
    masked = (x_t == mask_id)[..., None]
    value = torch.where(masked, 0, x_t[..., None])
    certain = torch.full_like(log_probs, -torch.inf).scatter_(-1, value, 0.0)
    return torch.where(masked, log_probs, certain)


class MaskedDenoiser(nn.Module):
    """network + process = Denoiser of tokens. net(x_t (B, L) with [MASK] = V, c_noise (B,), cond) -> logits (B, L, V).

    c_noise is 1000 x the masked share of x_t itself, not the clock: the posterior given x_t does not depend on t (Sahoo et
    al. 2024, Section 3.2), and so the label is right for every sampler, whatever t it is at.
    """

    def __init__(self, net: nn.Module, process: MaskedProcess):
        super().__init__()
        self.net, self.process = net, process

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> MaskedPrediction:
        mask_id = self.process.mask_id
        share = (x_t == mask_id).float().mean(1)
        logits = self.net(x_t, 1000 * share, cond).float()
        return MaskedPrediction(substitute(logits.log_softmax(-1), x_t, mask_id))


def categorical(log_probs: Tensor, u: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draws by the inverse of the cumulative probabilities, one uniform a token whatever V is.

    log_probs (..., V), u (...) in [0, 1) -> (...) int64. In float64: float32 cuts the tail off, which lowers the
    temperature (Zheng et al. 2024, Section 4).
    """
    cdf = log_probs.to(dtype, copy=True).exp_().cumsum_(-1)  # in place: of many values it is what takes the memory
    u = u.to(dtype).clamp(max=1 - torch.finfo(dtype).eps / 2)  # rounded to 1 it would be beyond every possible value
    below = cdf <= (u * cdf[..., -1])[..., None]
    count = below.sum(-1, dtype=torch.int32)  # which makes a copy of this type
    return count.long().clamp(max=log_probs.shape[-1] - 1)
