"""Masked-image denoising by decoders trained apart (after Li et al. 2025, arXiv 2503.24322; He et al. 2021, arXiv 2111.06377)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffcli.core import parameterization
from diffcli.core.denoiser import Cond, Preconditioned, Prediction, network_input
from diffcli.core.method import Batch, Grid, Method, Preview, Wrap
from diffcli.core.process import GaussianProcess, expand
from diffcli.core.random import Rng, Rows
from diffcli.core.space import Space
from diffcli.errors import UsageError
from diffcli.schedules.gaussian import EDM
from diffcli_mae_noprop import MAENoPropOptions
from diffcli_mae_noprop.levels import Levels
from diffcli_mae_noprop.network import Backbone, pooled
from diffcli_vision.reconstruction import given


class Completion(Preconditioned):
    """The decoders as one denoiser: x_0 is the image where it is seen, and what the decoder of the level says elsewhere."""

    net: Any

    def __init__(self, net: Any, process: GaussianProcess, levels: Levels, sigma_data: float):
        c_in, c_noise = network_input(process, sigma_data)
        super().__init__(net, process, parameterization.edm(sigma_data), c_in=c_in, c_noise=c_noise)
        self.levels = levels

    def decoded(self, i: int, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """F (B, C, H, W) of decoder i at t, () or (B,)."""
        c_in, c_noise = expand(self.c_in(self.process, t), x_t), self.c_noise(self.process, t)
        rows = c_noise.to(x_t) if c_noise.ndim else x_t.new_full((len(x_t),), float(c_noise))
        f: Tensor = self.net.decode(i, cond["features"], cond["visible"], c_in * x_t, rows)
        return f.to(x_t.dtype)

    def raw(self, x_t: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor | None]:
        """F of the decoder that answers for t; t (B,) may ask several."""
        asked = [self.levels.decoder(sigma) for sigma in self.process.sigma(t).reshape(-1).tolist()]
        if len(set(asked)) == 1:
            return self.decoded(asked[0], x_t, t, cond), None
        f = torch.empty_like(x_t)
        for i in sorted(set(asked)):
            rows = torch.tensor([k for k, one in enumerate(asked) if one == i])
            here = rows.to(x_t.device)
            f[here] = self.decoded(i, x_t[here], t[rows.to(t.device)], {name: v[here] for name, v in cond.items()})
        return f, None

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Prediction:
        pair, seen = super().forward(x_t, t, cond), self.net.pixels(cond["visible"])
        x_0 = torch.where(seen, cond["image"], pair.x_0)
        eps = torch.where(seen, (x_t - x_0) / expand(self.process.sigma(t), x_t), pair.eps)
        return Prediction(x_0, eps)

    def errors(self, i: int, x_0: Tensor, noise: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """(B,): the mean of (F - a x_0 - b eps)^2 of decoder i over the hidden patches of each image."""
        a, b = (expand(c, x_0) for c in self.param(self.process, t))
        f = self.decoded(i, self.process.diffuse(x_0, noise, t), t, cond)
        return self.hidden((f - (a * x_0 + b * noise)) ** 2, cond)

    def hidden(self, values: Tensor, cond: Cond) -> Tensor:
        """(B,): the mean of values (B, C, H, W) over hidden patches."""
        visible = cond["visible"]
        unseen = (~self.net.pixels(visible)).to(values)
        share = 1 - visible.shape[1] / self.net.patches
        kept: Tensor = (values * unseen).flatten(1).mean(1) / share
        return kept


class MAENoProp(Method):
    """sum_i w_i E || F_i(x_i, visible) - (a_i x_0 + b_i eps_i) ||^2 over hidden patches, x_i = x_0 + sigma_i eps_i.

    Decoder i knows its own levels alone and never sees what another says; each has fresh noise, all one image, one mask and
    one encoding of what is seen. weighting edm: w = 1, errors of F; none: w = c_out^2, errors of the image.
    """

    def __init__(
        self, config: MAENoPropOptions, space: Space, *, model: Callable[..., nn.Module], process: GaussianProcess
    ):
        super().__init__()
        if not isinstance(process, EDM):
            raise UsageError("mae-noprop adds noise and never scales the image, as --schedule edm does; take that one")
        self.config, self.space, self.spacing, channels = config, space, config.levels, space.shape[0]
        self.levels, self.on_grid = Levels(config.levels, config.decoders, process), config.levels == "karras"
        net: Any = model(
            inputs=channels,
            outputs=channels,
            decoders=config.decoders,
            levels=config.levels == "equiprob",
            plain=config.encoder_grad == "detach",
        )
        self.denoiser = Completion(net, process, self.levels, config.sigma_data)
        self.seen(config.mask_ratio)

    def seen(self, ratio: float) -> int:
        """K: how many of the L patches are visible. UsageError where all would be."""
        patches = self.denoiser.net.patches
        count = int(patches * (1 - ratio) + 1e-9)  # which 1 - 0.9 would else round down
        if count == patches:
            raise UsageError(f"--mask-ratio {ratio:g} hides none of {patches} patches; give a larger one")
        return count

    def cond(self, batch: Batch, rng: Rng) -> Cond:
        """Features of what is visible, where that is, and the image; from nothing where there is no x.

        visible (B, K): what `known` says, else K at random of each image; in training none of a share of batches.
        """
        net, x = self.denoiser.net, batch.x
        if x is None:
            x = torch.zeros(len(batch.index), *self.space.shape, device=batch.index.device)
            visible = torch.zeros(len(x), 0, dtype=torch.int64, device=x.device)
        elif batch.known is not None:
            visible = net.places(batch.known)
        else:
            visible = self.mask(rng, 0 if self.blind(rng) else self.seen(self.config.mask_ratio))
        return {"features": net.encoder(x, visible), "visible": visible, "image": x}

    def mask(self, rng: Rng, count: int) -> Tensor:
        """(B, K) the visible patches of each row, at random."""
        return rng.uniform("mask", (self.denoiser.net.patches,)).argsort(1)[:, :count]

    def blind(self, rng: Rng) -> bool:
        """Whether this is a batch of training with nothing visible: one draw, which all rows of a global batch share."""
        if not self.training or not self.config.mask_dropout:
            return False
        return float(rng.strata("mask dropout")[0] * rng.total % 1) < self.config.mask_dropout

    def loss(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        d, c, cond, x_0 = self.denoiser, self.config, self.cond(batch, rng), batch.x
        assert x_0 is not None
        told = {**cond, "features": cond["features"].detach()} if c.encoder_grad == "detach" else cond
        losses, total = dict[str, Tensor](), x_0.new_zeros(())
        for i in range(c.decoders):
            t = self.levels.draw(i, rng)
            error = d.errors(i, x_0, rng.normal("eps", x_0.shape[1:]), t, told)
            weight = 1.0 if c.weighting == "edm" else expand(self.c_out(t) ** 2, error)
            total, losses[f"decoder{i}"] = total + (weight * error).mean(), error.detach().mean()
        if c.encoder_grad == "detach":
            plain = d.hidden((d.net.plain(cond["features"], cond["visible"]).float() - x_0) ** 2, cond).mean()
            total, losses["plain"] = total + plain, plain.detach()
        return {"loss": total, **losses}

    def c_out(self, t: Tensor) -> Tensor:
        """sigma sigma_data / sqrt(sigma^2 + sigma_data^2): what F is scaled by in x_0 (Karras et al. 2022, Table 1)."""
        sigma, sd = self.denoiser.process.sigma(t), self.config.sigma_data
        scale: Tensor = sigma * sd / torch.sqrt(sigma**2 + sd**2)
        return scale

    def parameter_groups(self) -> Iterator[Mapping[str, Any]]:
        """The encoder, and each decoder; biases, norms and tokens do not decay."""
        net = self.denoiser.net
        parts = [("encoder", net.encoder), *((f"decoder{i}", each) for i, each in enumerate(net.decoders))]
        for name, part in [*parts, *([("plain", net.plain)] if net.plain is not None else [])]:
            trained = [p for p in part.parameters() if p.requires_grad]
            yield {"params": [p for p in trained if p.ndim > 1], "part": name}
            yield {"params": [p for p in trained if p.ndim <= 1], "part": name, "weight_decay": 0.0}

    def default_steps(self, sampler: Any) -> int:
        """One a decoder."""
        return self.config.decoders

    def times(self, steps: int, spacing: str, grid: Grid) -> Tensor:
        """The levels of the decoders, then 0."""
        return self.levels.grid(steps)

    def wish(self, batch: Batch, options: Any, held_out: Callable[[], Any]) -> Batch:
        """Held-out image i, or picture i of --input, with a mask of (seed, i); nothing of it with --mask-ratio 1."""
        own, files = self.config.mask_ratio, getattr(options, "input", None)
        ratio = own if getattr(options, "mask_ratio", None) is None else options.mask_ratio
        count = self.seen(ratio)
        if not count:
            if self.seen(own) and not self.config.mask_dropout:
                raise UsageError(
                    f"--mask-ratio {ratio:g} hides all patches, but the model was trained to complete images; leave some "
                    "visible, or train with --mask-dropout above 0 to draw from nothing"
                )
            if files is not None:
                raise UsageError(f"--mask-ratio {ratio:g} hides all of --input; leave --input or --mask-ratio out")
            return batch
        x = given(batch.index, files, held_out, self.space)
        known = self.denoiser.net.pixels(self.mask(Rows(options.seed, batch.index, len(x)), count))
        return batch._replace(x=x, known=known.expand(x.shape))

    def trajectory(
        self, batch: Batch, shape: tuple[int, ...], sampler: Any, times: Tensor, wrap: Wrap, rng: Rng
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As always; at the end visible patches are the image to the bit, also where a sampler arrives by differences."""
        start, cond = self.begin(shape, batch, rng), self.cond(batch, rng)
        yield times[0], start
        seen = self.denoiser.net.pixels(cond["visible"])
        for s, x in sampler.trajectory(wrap(self.denoiser), start, times, cond=cond, rng=rng):
            yield s, torch.where(seen, cond["image"], x) if s == 0 else x

    def features(self, x: Tensor) -> Tensor:
        """(B, E): whole images, to a linear probe."""
        return pooled(self.denoiser.net.encoder, x)

    def backbone(self) -> nn.Module:
        """A copy of the encoder, to be trained on: x (B, C, H, W) -> (B, E)."""
        return Backbone(copy.deepcopy(self.denoiser.net.encoder).requires_grad_())

    def preview(self) -> Preview:
        """Held-out images completed by the recipe's own sampler, and the way there; it is a step a decoder."""
        return Preview(plots=("frames",), opening=("frames",))

    def measures(self, facts: Any) -> tuple[str, ...]:
        """How near each decoder comes at its own level and in the walk, and what the encoder knows of classes."""
        return ("loss", "decoders", "walk", "probe")

    def notes(self, data: Any) -> list[str]:
        """The levels, and how much is seen."""
        net, c = self.denoiser.net, self.config
        of = "levels" if c.levels == "karras" else "intervals between"
        sigmas = ", ".join(f"{s:.4g}" for s in self.levels.sigma.tolist())
        seen = f"{self.seen(c.mask_ratio)} of {net.patches} patches of {net.side}x{net.side} are seen"
        return [f"{c.decoders} decoders, {of} sigma {sigmas}; {seen}"]
