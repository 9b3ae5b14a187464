"""The laws of every schedule, and of those that turn tokens into [MASK]."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from diffcli.core.process import Process
from diffcli.core.random import Rows
from diffcli.core.space import Pixels, Tokens
from diffcli.plugin import Family
from diffcli.testing.suite import Suite, addressed, drawn, need, of

LINE = torch.linspace(0, 1, 1001, dtype=torch.float64)
INSIDE = LINE[1:-1]
IMAGE = (1, 4, 4)
ONE, ZERO = LINE[-1], LINE[0]


def line(values: Tensor, most: int = 3) -> str:
    """A few numbers, for a message."""
    return ", ".join(f"{value:.6g}" for value in values.flatten()[:most].tolist())


def worst(found: Tensor, want: Tensor) -> str:
    """Where two curves over INSIDE differ most."""
    k = int((found - want).abs().nan_to_num(torch.inf).argmax())
    return f"at t = {float(INSIDE[k]):.3f} it is {float(found[k]):.6g}, not {float(want[k]):.6g}"


class Clocks(Suite):
    """The laws of every schedule, and of the masked ones."""

    kind: ClassVar[str] = "schedule"

    @classmethod
    def make(cls) -> Any:
        space = Tokens(IMAGE, 0, vocab=5) if cls.spec().family == "masked" else Pixels(IMAGE, 0)
        return cls.spec().load()(cls.config(), space)

    @classmethod
    def family(cls) -> Family | None:
        made, _ = cls.attempt()
        return getattr(made, "family", cls.spec().family)

    @property
    def made(self) -> Any:
        """The process, where its coefficients are numbers."""
        made = super().made
        curves = [getattr(made, name, torch.zeros_like)(LINE) for name in ("alpha", "sigma")]
        if not all(bool(torch.isfinite(curve).all()) for curve in curves):
            self.skip("its coefficients are not finite, as another law says")
        return made

    def test_it_is_a_process_of_its_family(self) -> None:
        """It is a Process of the family that its spec says."""
        need(
            isinstance(self.made, Process),
            f"it is a {type(self.made).__name__}; derive it from a Process of core.process",
        )
        said = self.spec().family
        need(self.made.family == said, f"its family is {self.made.family}, but its spec says {said}")

    def test_shape_and_dtype_are_kept(self) -> None:
        """Its coefficients have the shape and dtype of t, () or (B,), and do not depend on either."""
        names = ("alpha", "sigma") if self.family() == "gaussian" else ("alpha", "rate")
        for name in names:
            curve, several = getattr(self.made, name), LINE[[70, 300, 701]]
            whole = curve(several)
            for t in (several, several.float(), several[:1], several[1], several[1].float()):
                found = curve(t)
                what = f"{name} of t {tuple(t.shape)} {t.dtype} is {tuple(found.shape)} {found.dtype}"
                # a 0-dim tensor promotes nothing, so that float64 does no harm there
                need(found.shape == t.shape and found.dtype in (t.dtype, t.dtype if t.ndim else torch.float64), what)
                want = whole[1] if not t.ndim else whole[: len(t)]
                need(
                    torch.allclose(found.double(), want, rtol=1e-5, atol=1e-5),
                    f"{what}, and of other values than in a batch",
                )

    def prior(self) -> Tensor:
        """(256, *IMAGE) or (256, L) at t = 1."""
        shape = (16,) if self.family() == "masked" else IMAGE
        found: Tensor = addressed(lambda: self.made.prior(shape, Rows(0, torch.arange(256), 256)))
        need(found.shape == (256, *shape), f"of 256 rows of {shape} the prior is {tuple(found.shape)}")
        return found

    def test_the_prior_draws_by_address(self) -> None:
        """A row of the prior follows from its address alone."""
        rows = torch.tensor([5, 9])
        shape = (16,) if self.family() == "masked" else IMAGE
        part, moved = drawn(lambda: self.made.prior(shape, Rows(0, rows, 256)))
        need(not moved, f"it draws from the global stream of {', '.join(moved)}; draw from rng")
        need(torch.equal(part, self.prior()[rows]), "rows 5 and 9 are others alone than in a batch of 256")

    @of("masked")
    def test_everything_is_clean_at_0_and_masked_at_1(self) -> None:
        """alpha(0) = 1, alpha(1) = 0, and it strictly falls."""
        alpha, rate = self.made.alpha(LINE), self.made.rate(LINE)
        need(float(rate[0]) == 0 and float(alpha[0]) == 1, f"alpha(0) is {float(alpha[0]):g}")
        need(float(rate[-1]) == 1 and float(alpha[-1]) == 0, f"alpha(1) is {float(alpha[-1]):g}")
        rises = ~(rate.diff() > 0)
        need(not rises.any(), f"at t = {line(LINE[1:][rises])} it does not fall")
        need(torch.allclose(alpha + rate, torch.ones_like(LINE), rtol=0, atol=1e-12), "alpha + rate is not 1")

    @of("masked")
    def test_time_inverts_the_rate(self) -> None:
        """time(rate) gives t back."""
        rate = self.made.rate(INSIDE)
        found = self.made.rate(self.made.time(rate))
        need(torch.allclose(found, rate, rtol=1e-9, atol=1e-12), f"the rate there: {worst(found, rate)}")

    @of("masked")
    def test_slope_is_that_of_the_rate(self) -> None:
        """slope gives -alpha'."""
        h, slope = 1e-6, self.made.slope(INSIDE)
        central = (self.made.rate(INSIDE + h) - self.made.rate(INSIDE - h)) / (2 * h)
        need(torch.allclose(slope, central, rtol=1e-5, atol=1e-6), worst(slope, central))

    @of("masked")
    def test_posterior_is_a_distribution(self) -> None:
        """stay and reveal are probabilities that make 1, and stay is (1 - alpha_s)/(1 - alpha_t)."""
        t, s = INSIDE[10:], INSIDE[:-10]
        stay, reveal = self.made.posterior(t, s)
        odd = ((stay + reveal - 1).abs() > 1e-9) | (stay < 0) | (reveal < 0)
        need(not odd.any(), f"at t = {line(t[odd])} they are {line(stay[odd])} and {line(reveal[odd])}")
        need(torch.allclose(stay, self.made.rate(s) / self.made.rate(t), rtol=1e-9), f"stay is {line(stay)}")

    @of("masked")
    def test_masking_hides_and_changes_nothing_else(self) -> None:
        """mask hides a token where its number is below 1 - alpha, and leaves the others as they are."""
        x = torch.arange(4 * 4000).reshape(4, -1) % 5
        u = torch.rand(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        for t in (LINE[300], LINE[[100, 300, 600, 950]]):
            x_t, hidden = self.made.mask(x, t, u), u < self.made.rate(t).reshape(-1, 1)
            need((x_t[hidden] == 5).all(), "a token that must be hidden is not [MASK]")
            need(torch.equal(x_t[~hidden], x[~hidden]), "a token that must stay is another")

    @of("masked")
    def test_mask_is_the_value_after_the_last(self) -> None:
        """[MASK] is the number of values of its space, and the prior holds nothing else."""
        need(self.made.vocab == self.made.mask_id == 5, f"of 5 values [MASK] is {self.made.mask_id}, not 5")
        need((self.prior() == 5).all(), "the prior holds something else")
