"""The laws of a sampler, on denoisers in closed form: it converges, counts its calls, and leaves no trace."""

from __future__ import annotations

import torch

from diffcli.core.process import MaskedProcess
from diffcli.engine.bench_errors import Whole
from diffcli.engine.bench_masked import distance, pair
from diffcli.samplers.grid import grid
from diffcli.schedules.masked import LogLinear
from diffcli.testing.known import STRETCHES, Fixed, Image, errors, gaussian, noise, path, uniform
from diffcli.testing.suite import need, of
from diffcli.testing.walks import Walks, end

DRAWS = 4096  # walks that a law is judged by


class SamplerSuite(Walks):
    """The laws of a sampler, those of its family behind those of all."""

    @of("gaussian")
    def test_of_one_image_it_finds_it(self) -> None:
        """Where the data are one image, every walk ends on it."""
        image = torch.tensor([0.3, -0.8], dtype=torch.float64)
        for name, process in gaussian().items():
            for steps in (1, 4, 50):
                found = end(path(self.made, Image(process, image), noise(process, 8), uniform(process, steps)))
                off = float((found - image).abs().max())
                need(off < 1e-9, f"{steps} steps on {name} end {off:.2g} away from it; the step to s = 0 must give x_0")

    @of("gaussian")
    def test_error_falls_with_the_declared_order(self) -> None:
        """The error falls with the order it declares."""
        order = self.made.order
        if order is None:
            self.skip("a random walk has no order")
        for stretch in STRETCHES:
            slope, found = errors(self.made, stretch)
            listed = ", ".join(f"{e:.2g} of {n}" for e, n in zip(found, stretch.counts, strict=True))
            need(
                slope >= order - 0.35,
                f"it declares order {order}, but {slope:.2f} was measured on {stretch.name} (errors {listed} steps)",
            )

    @of("gaussian")
    def test_it_ends_on_the_data(self) -> None:
        """Its walks end on the law of the data: its mean, and its mean log density within 0.1 nats."""
        if not self.made.exact:
            self.skip("it does not claim to end on the law of the data")
        steps = (
            40 if self.made.order else 160
        )  # a random walk converges slowly, and a tenth too much noise is 0.15 nats
        for name, denoiser, _ in self.cases(1):
            process, zero = denoiser.process, torch.zeros((), dtype=torch.float64)
            walked = path(
                self.made, denoiser, noise(process, DRAWS), grid(process, steps, "logsnr"), rng=Whole(0, DRAWS)
            )
            found = end(walked)
            data = denoiser.draw(DRAWS, torch.Generator().manual_seed(3))
            off = float((found.mean(0) - data.mean(0)).abs().max())
            need(off < 0.06, f"on {name} the mean is {off:.2g} off")  # four standard errors of two means
            nats = float(denoiser.log_prob(found, zero).mean() - denoiser.log_prob(data, zero).mean())
            need(
                abs(nats) < 0.1,  # four standard errors are 0.09
                f"on {name} the mean log density is {nats:+.2f} nats off: {'wider' if nats < 0 else 'narrower'} than the data",
            )

    @of("masked")
    def test_given_tokens_stay_and_no_mask_is_left(self) -> None:
        """Tokens that are given stay at every step, and no [MASK] is left at 0."""
        for name, denoiser, x in self.cases():
            given = x != denoiser.process.mask_id
            for steps in (1, 2, 7, 40):
                for spacing in ("uniform", "linspace", "leading"):  # the last begins below t = 1
                    where = f"of {steps} steps of {spacing} spacing on {name}"
                    walked = [x_s for _, x_s in path(self.made, denoiser, x, grid(denoiser.process, steps, spacing))]
                    changed = sum(int((x_s[given] != x[given]).sum()) for x_s in walked)
                    need(not changed, f"{where}: given tokens were changed {changed} times")
                    left = int(((walked[-1] < 0) | (walked[-1] >= denoiser.process.vocab)).sum())
                    need(not left, f"{where}: {left} of {x.numel()} tokens are [MASK] or no value at the end")

    @of("masked")
    def test_independent_tokens_are_drawn_from_their_law(self) -> None:
        """In one step each token is drawn from its probabilities."""
        process, probs = LogLinear(3), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
        x = process.prior((10,), Whole(0, 2000))
        found = end(path(self.made, Fixed(process, probs), x, uniform(process, 1), rng=Whole(1, 2000)))
        share = found.flatten().bincount(minlength=3)[:3] / found.numel()
        # 20,000 tokens: four standard errors are at most 0.0145
        need(
            (share - probs).abs().max() < 0.015,
            f"of 0.2, 0.5, 0.3 the shares are {', '.join(f'{s:.3f}' for s in share.tolist())}",
        )

    @of("masked")
    def test_the_law_of_two_equal_tokens_is_reached(self) -> None:
        """Of two tokens that are always equal, the total variation falls with the steps to nothing."""
        one, many = (distance(self.made, pair(MaskedProcess(2)), steps, 10_000) for steps in (1, 64))
        # counting 10,000 draws gives 0.01, N independent steps 1/(2N) = 0.008, and those that mask again somewhat more
        need(
            many <= 0.1 and many <= one + 0.02,
            f"it is {many:.3f} after 64 steps, and {one:.3f} after one; at most 0.1 is right",
        )
