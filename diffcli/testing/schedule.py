"""The laws of a schedule: a Gaussian process falls from data to noise, a masked one from data to [MASK]."""

from __future__ import annotations

import math

import torch

from diffcli.samplers.grid import grid
from diffcli.testing.clocks import IMAGE, INSIDE, LINE, ONE, ZERO, Clocks, line, worst
from diffcli.testing.suite import need, of


class ScheduleSuite(Clocks):
    """The laws of a schedule, by its family: float64 on the CPU, t in [0, 1], 0 clean."""

    @of("gaussian")
    def test_coefficients_are_finite_and_not_negative(self) -> None:
        """alpha and sigma are finite and at least 0."""
        made, _ = self.attempt()
        for name in ("alpha", "sigma") if made else ():
            values = getattr(made, name)(LINE)
            bad = ~torch.isfinite(values) | (values < 0)
            need(not bad.any(), f"{name} is {line(values[bad])} at t = {line(LINE[bad])}")

    @of("gaussian")
    def test_log_snr_strictly_falls(self) -> None:
        """log(alpha/sigma) strictly falls."""
        snr = self.made.alpha(LINE).log() - self.made.sigma(LINE).log()
        rises = ~(snr.diff() < 0)
        need(not rises.any(), f"at t = {line(LINE[1:][rises])} it does not, of {int(rises.sum())} of 1000 steps")

    @of("gaussian")
    def test_it_begins_clean(self) -> None:
        """alpha(0) = 1 and sigma(0) = 0, or sigma(0) is the declared floor, which ending() hides."""
        floor = self.made.floor
        alpha, sigma = float(self.made.alpha(ZERO)), float(self.made.sigma(ZERO))
        if floor:
            need(abs(sigma - floor) <= 1e-6 * floor, f"sigma(0) is {sigma:g}, but floor is {floor:g}")
            need(0 < alpha <= 1, f"alpha(0) is {alpha:g}, which must be above 0 and at most 1")
        else:
            need(
                (alpha, sigma) == (1, 0),
                f"alpha(0) is {alpha:g} and sigma(0) {sigma:g}; a floor above 0 must be declared",
            )
        end = self.made.ending()
        last = (float(end.alpha(ZERO)), float(end.sigma(ZERO)))
        need(last == (1, 0), f"ending() has alpha(0) = {last[0]:g} and sigma(0) = {last[1]:g}")

    @of("gaussian")
    def test_it_reaches_zero_where_its_spec_says(self) -> None:
        """alpha(1) = 0 if and only if Spec.reaches_zero."""
        alpha, said = float(self.made.alpha(ONE)), self.spec().reaches_zero
        need((alpha == 0) == said, f"alpha(1) is {alpha:g}, but its spec says reaches_zero={said}")

    @of("gaussian")
    def test_time_inverts_the_ratio(self) -> None:
        """time(sigma/alpha) gives t back."""
        found = self.made.time(self.made.ratio(INSIDE))
        need(torch.allclose(found, INSIDE, rtol=1e-9, atol=1e-10), worst(found, INSIDE))

    @of("gaussian")
    def test_derivative_is_that_of_its_coefficients(self) -> None:
        """derivative gives (alpha', sigma')."""
        h, nodes = 1e-6, self.made.nodes
        t = INSIDE if not nodes else (torch.floor(INSIDE * nodes).clamp(max=nodes - 1) + 0.5) / nodes
        slopes = self.made.derivative(t)
        for name, slope in zip(("alpha", "sigma"), slopes, strict=True):
            curve = getattr(self.made, name)
            # Off by h^2 times the third derivative, and 1e-10 of the value.
            central = (curve(t + h) - curve(t - h)) / (2 * h)
            size = max(1.0, float(central.abs().max()))
            need(slope.shape == t.shape, f"of {name} it is of shape {tuple(slope.shape)}, not of t's")
            need(torch.allclose(slope, central, rtol=1e-4, atol=1e-5 * size), f"{name}': {worst(slope, central)}")

    @of("gaussian")
    def test_diffuse_is_the_definition(self) -> None:
        """diffuse gives alpha(t) x_0 + sigma(t) eps in the dtype of the data."""
        x_0, eps = torch.randn(2, 3, *IMAGE, generator=torch.Generator().manual_seed(0)).unbind()
        for t in (LINE[400], LINE[[100, 500, 900]]):
            shape = (*t.shape, *(1,) * (x_0.ndim - t.ndim))
            want = self.made.alpha(t).reshape(shape) * x_0.double() + self.made.sigma(t).reshape(shape) * eps.double()
            found = self.made.diffuse(x_0, eps, t)
            need(found.dtype == x_0.dtype, f"of float32 it gave {found.dtype}")
            off = float((found - want).abs().max() / want.abs().max())
            need(off < 1e-5, f"for t {tuple(t.shape)} it is off by {off:.2g} of the largest number")

    @of("gaussian")
    def test_the_prior_has_the_size_of_sigma(self) -> None:
        """The prior is normal with standard deviation sigma(1)."""
        x, std = self.prior().double(), float(self.made.sigma(ONE))
        found, n = float(x.std()), x.numel()
        need(abs(found / std - 1) < 5 / (2 * n) ** 0.5, f"of {n} numbers it is {found:.4g}, and sigma(1) is {std:.4g}")
        need(abs(float(x.mean())) < 5 * std / n**0.5, f"its mean is {float(x.mean()):.3g}")

    @of("gaussian")
    def test_levels_of_a_grid_lie_within_reach(self) -> None:
        """ratio_min and ratio_max lie between sigma/alpha at 0 and at 1, and every spacing gives a grid."""
        low, high = self.made.ratio_min, self.made.ratio_max
        first, last = float(self.made.ratio(ZERO)), float(self.made.ratio(ONE))
        need(
            first <= low < high <= last * (1 + 1e-12) and math.isfinite(high),
            f"ratio_min is {low:g} and ratio_max {high:g}, but sigma/alpha goes from {first:g} to {last:g}",
        )
        for spacing in (None, "uniform", "cosine", "linspace", "leading", "karras", "logsnr"):
            times = grid(self.made, 10, spacing)
            need(
                len(times) == 11 and float(times[-1]) == 0, f"10 steps of {spacing} spacing end at {float(times[-1]):g}"
            )

    @of("gaussian")
    def test_quantile_is_a_law_of_times(self) -> None:
        """quantile maps (0, 1) into (0, 1] and never falls."""
        u = torch.tensor([1e-12, 1e-3, 0.2, 0.5, 0.8, 0.999, 1 - 1e-12], dtype=torch.float64)
        t = self.made.quantile(u)
        need((t > 0).all() and (t <= 1).all() and (t.diff() >= 0).all(), f"of {line(u, 7)} it is {line(t, 7)}")

    @of("gaussian")
    def test_posterior_variances_are_those_of_the_process(self) -> None:
        """0 <= beta~ <= beta <= sigma(t)^2, and beta is sigma_t^2 - (alpha_t/alpha_s)^2 sigma_s^2."""
        t, s = INSIDE[10:], INSIDE[:-10]
        large, small = self.made.posterior(t, s)
        order = (small >= 0) & (small <= large * (1 + 1e-9)) & (large <= self.made.sigma(t) ** 2 * (1 + 1e-9))
        need(order.all(), f"at t = {line(t[~order])} they are {line(small[~order])} and {line(large[~order])}")
        want = self.made.sigma(t) ** 2 - (self.made.alpha(t) / self.made.alpha(s) * self.made.sigma(s)) ** 2
        need(torch.allclose(large, want, rtol=1e-6, atol=1e-12), f"beta is {line(large)}, not {line(want)}")
