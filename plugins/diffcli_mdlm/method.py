"""The losses of masked diffusion (Sahoo et al. 2024, arXiv 2406.07524), on clean and on corrupted data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from diffcli.core.denoiser import Cond
from diffcli.core.masked import MaskedDenoiser, categorical
from diffcli.core.method import Batch, Labelled, Preview
from diffcli.core.process import MaskedProcess, expand
from diffcli.core.random import Rng
from diffcli.core.space import Masked, Text
from diffcli.errors import UsageError
from diffcli_mdlm import MDLMOptions, MDLMSample
from diffcli_vision.wrappers import Binarized, Corrupted

LEAST = 1e-3  # smallest training time: below it a batch holds a masked token in few rows, at a weight of 1000


class MDLM(Labelled):
    """NELBO = E_t [ -alpha'/(1 - alpha) sum over masked i of -log p(x_i | x_t) ] in nats (Sahoo et al. 2024, Eq. 10).

    What is minimized is the NELBO per token, so that one clipping bound serves any length. Where a share p of the data is
    missing, the bound is trained above the masking rate p on what was observed, and below it by consistency.
    """

    def __init__(self, config: MDLMOptions, space: Masked, *, model: Callable[..., nn.Module], process: MaskedProcess):
        super().__init__(config.cond == "label", config.label_dropout)
        self.config, self.space, self.begins = config, space, 0.0
        self.text = isinstance(space, Text)
        if self.text and config.binarize != "threshold":
            raise UsageError(f"--binarize {config.binarize} is of images, but these data are texts; leave it out")
        self.denoiser = MaskedDenoiser(model(classes=space.classes if self.conditional else 0), process)

    def view(self, dataset: Any) -> Any:
        """Images as black and white; texts as they are."""
        return dataset if self.text else Binarized(dataset, self.config.binarize, training=False)

    def data(self, dataset: Any) -> Any:
        """Binarized, with new draws where they are dynamic; and without what is missing."""
        c = self.config
        self.begins = c.consistency_start * len(dataset)
        if not self.text:
            dataset = Binarized(dataset, c.binarize, training=True)
        return Corrupted(dataset, c.p, c.corruption_seed) if c.p else dataset

    def notes(self, data: Any) -> list[str]:
        """What is missing, as asked for and as found, and why."""
        c = self.config
        if not c.p:
            return []
        why = "" if c.missing is not None else ", as --consistency-weight is given and --missing is not"
        return [
            f"ambient: {100 * c.p:g} % of the data is missing ({100 * data.rate():.2f} % measured){why}; "
            f"consistency weight {c.weight:g}"
        ]

    def begin(self, shape: tuple[int, ...], batch: Batch, rng: Rng) -> Tensor:
        """All [MASK], but for what is given."""
        x = super().begin(shape, batch, rng)
        return x if batch.x is None else torch.where(batch.known, batch.x, x)

    def loss(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """In training the bound above the rate p, plus consistency below it; in evaluation the whole bound on what is there."""
        p = self.config.p if self.training else 0.0
        u = rng.strata("time")
        if self.training:
            u = LEAST + (1 - LEAST) * u
        cond, length = self.cond(batch, rng), batch.x.shape[1]
        bound, masked = self.bound(batch.x, u, cond, rng, p)
        nats = bound.mean()
        losses = {"loss": nats / length, "nats": nats.detach(), "masked": masked.mean()}
        if self.training and self.config.weight:
            losses["easy"] = losses["loss"].detach()
            losses["consistency"] = self.consistency(batch.x, cond, rng).mean() if self.due(rng) else nats.new_zeros(())
            losses["loss"] = losses["loss"] + self.config.weight * losses["consistency"]
        return losses

    def due(self, rng: Rng) -> bool:
        """Whether the epoch has come from which consistency is asked for: when the batch begins, for all parts of it."""
        return int(rng.index[0]) // rng.total * rng.total >= self.begins

    def bound(self, x: Tensor, u: Tensor, cond: Cond, rng: Rng, p: float = 0.0) -> tuple[Tensor, Tensor]:
        """(nats (B,), masked share (B,)): the bound at masking rates above p from x (B, L), in which a share p is [MASK].

        u (B,) in (0, 1) -> t between the time of rate p and 1. With m = 1 - alpha(t) each observed token is masked too
        with probability (m - p)/(1 - p), so that a token is masked with probability m in all. The new ones are a thinning
        of those at rate (m - p)/m, independent of the rest; so E sum_new/(m - p) = E sum_masked/m, and weighted by
        -alpha'/(m - p) they alone give the bound, without the truth of what is missing (for alpha = 1 - t: 1/u).
        """
        process: MaskedProcess = self.denoiser.process
        low = process.time(torch.tensor(p, dtype=torch.float64))
        t = low + (1 - low) * u
        m = process.rate(t)
        weight = (1 - low) * process.slope(t) / (m - p)
        observed = x != process.mask_id
        draw = rng.uniform("mask", x.shape[1:])
        new = observed & (draw < expand((m - p) / (1 - p), draw))
        x_t = torch.where(new, process.mask_id, x)
        log_probs = self.denoiser(x_t, t, cond).log_probs
        at_x = log_probs.gather(-1, torch.where(new, x, 0)[..., None])[..., 0]
        nats = torch.where(new, -at_x, 0.0).sum(1)
        return nats * weight.to(nats), (x_t == process.mask_id).float().mean(1)

    def consistency(self, x_t: Tensor, cond: Cond, rng: Rng) -> Tensor:
        """E over masked i of (h_i(x_s^1) - h_i(x_t)) (h_i(x_s^2) - h_i(x_t)), h_i = p(x_i = 1), per token: (B,).

        x_s^1 and x_s^2 are two histories from x_t that reveal the same tokens and draw their values independently, so its
        expectation is the squared error of h as a martingale, which is 0 for the exact posterior (Daras et al. 2024, for
        masks). The gradient goes through both h(x_s): what is less masked is taught by what is more masked.
        """
        first, second, h_t = self.histories(x_t, cond, rng)
        masked = first == self.denoiser.process.mask_id
        both = {name: torch.cat([value, value]) for name, value in cond.items()}
        pair = self.denoiser(torch.cat([first, second]), x_t.new_zeros(2 * len(x_t), dtype=torch.float64), both)
        h_1, h_2 = chances(pair.log_probs).chunk(2)
        product = ((h_1 - h_t) * (h_2 - h_t)).sum(-1)  # (B, L)
        return torch.where(masked, product, 0.0).sum(1) / x_t.shape[1]

    @torch.no_grad()
    def histories(self, x_t: Tensor, cond: Cond, rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
        """(x_s^1, x_s^2, h(x_t)): from the rate p to s ~ U(0, p) in even levels, each token kept masked with tau'/tau."""
        p, levels, shape = self.config.p, self.config.consistency_substeps, x_t.shape[1:]
        mask_id, b = self.denoiser.process.mask_id, len(x_t)
        s = p * rng.uniform("level", ())  # (B,)
        training, both = self.denoiser.training, {name: torch.cat([value, value]) for name, value in cond.items()}
        self.denoiser.eval()
        log_probs = self.denoiser(x_t, s, cond).log_probs
        h_t = chances(log_probs)
        x, log_probs = torch.cat([x_t, x_t]), torch.cat([log_probs, log_probs])
        for k in range(levels):
            now, then = (p + (s - p) * j / levels for j in (k, k + 1))
            if k:
                log_probs = self.denoiser(x, torch.cat([now, now]), both).log_probs
            draw = rng.uniform("reveal", shape)
            reveal = (x[:b] == mask_id) & (draw >= expand(then / now, draw))
            values = torch.cat([rng.uniform(f"value {copy}", shape) for copy in (1, 2)])
            x = torch.where(torch.cat([reveal, reveal]), categorical(log_probs, values), x)
        self.denoiser.train(training)
        torch.clear_autocast_cache()  # weights cast without gradient must not serve the pass that needs one
        first, second = x.chunk(2)
        return first, second, h_t

    def preview(self) -> Preview:
        """Samples by the recipe's own sampler, and held-out images with missing pixels, filled in."""
        if self.text:
            return Preview(sample={"samples": 4})
        return Preview(plots=("completion",), opening=("corruption",) if self.config.p else ())

    def measures(self, facts: Any) -> tuple[str, ...]:
        """The bound, filling in, consistency where data are missing, and for pictures what samples are like."""
        own = ("nelbo", "recovery", "consistency") if self.config.p else ("nelbo", "recovery")
        return own if facts.alphabet else (*own, *super().measures(facts)[1:])

    def wish(self, batch: Batch, options: Any, held_out: Callable[[], Any]) -> Batch:
        """--prompt: its characters are given. --inpaint: sample i is a completion of held-out image i // 3."""
        device = batch.index.device
        if not isinstance(options, MDLMSample):
            return batch
        if options.prompt is not None:
            return self.prompted(batch, options.prompt)
        if not options.inpaint:
            return batch
        if self.text:
            raise UsageError(
                "--inpaint completes images, but this model is of text; give it the beginning of a text with --prompt"
            )
        data = held_out()
        items = (batch.index // 3) % len(data)
        share = next((p for p in (options.missing, self.config.p) if p), 0.5)
        truth = data.batch(items, items, self.space)
        known = Corrupted(data, share, self.config.corruption_seed).batch(items, items, self.space).known
        return batch._replace(x=truth.x, known=known.to(device), label=truth.label if self.conditional else None)

    def prompted(self, batch: Batch, prompt: str) -> Batch:
        """The batch with the characters of a prompt given."""
        if not self.text:
            raise UsageError("--prompt begins a text, but this model is of images; use --inpaint")
        given, length = self.space.read(prompt), self.space.shape[0]
        if len(given) > length:
            raise UsageError(f"--prompt has {len(given)} characters, but a sample has {length}; shorten it")
        x = torch.zeros(len(batch.index), length, dtype=torch.int64)
        x[:, : len(given)] = given
        known = (torch.arange(length) < len(given)).expand(x.shape)
        return batch._replace(x=x.to(batch.index.device), known=known.to(batch.index.device))


def chances(log_probs: Tensor) -> Tensor:
    """(B, L, V) -> h: the probability of 1 where there are two values, else of each."""
    probs = log_probs.exp()
    return probs[..., 1:] if log_probs.shape[-1] == 2 else probs
