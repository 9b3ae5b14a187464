"""The laws of a method's denoiser: its answer explains x_t, guided or not, and each row is answered for itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from diffcli.core.denoiser import Cond, Guided
from diffcli.core.process import expand
from diffcli.plugin import Spec
from diffcli.registry import registry
from diffcli.testing.subject import Subject, variants, weakened, whole
from diffcli.testing.suite import Suite, apart, drawn, need, of

ROWS = 4
TIMES = (1.0, 0.9, 0.5, 0.1, 0.01, 0.001)
SCALE = 3.0  # of guidance


class Asked(NamedTuple):
    """What a denoiser is asked, and what is told of it in a message."""

    where: str
    x_t: Tensor
    t: Tensor
    cond: Cond


def largest(*values: Tensor) -> float:
    """The largest number of all, or 1."""
    return max(1.0, *(float(value.abs().max()) for value in values))


class DenoiserSuite(Suite):
    """The laws of the denoiser of the method called `name`, freshly made, with `options` (tables of a recipe) over its defaults."""

    kind: ClassVar[str] = "denoiser"
    options: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @classmethod
    def spec(cls) -> Spec:
        return registry().get("method", cls.name)

    @classmethod
    def make(cls) -> list[Subject]:
        return [Subject(*variant) for variant in variants(cls.name, cls.options)]

    @property
    def subjects(self) -> list[Subject]:
        """With a denoiser."""
        found: list[Subject] = self.made
        if found[0].method.denoiser is None:
            self.skip("the method has no denoiser")
        return found

    def asked(self, subject: Subject) -> Iterator[Asked]:
        """Rows of its data at every time."""
        batch = subject.batch(ROWS)
        cond = subject.cond(batch)
        if not whole(cond, ROWS):
            self.skip("its condition has not a row for each, as a law of the method says")
        for time in TIMES:
            t = torch.tensor(time, dtype=torch.float64)
            yield Asked(f"at t = {time:g}{subject.flags}", subject.noisy(batch, t), t, cond)

    def answers(self) -> Iterator[tuple[Asked, Any, str]]:
        """Every answer, plain and, where there is a condition, guided."""
        for subject in self.subjects:
            guided = Guided(subject.method.denoiser, SCALE, subject.method.weaken)
            for asked in self.asked(subject):
                with torch.no_grad():
                    yield asked, subject.method.denoiser(*asked[1:]), asked.where
                    if weakened(subject.method, asked.cond, ROWS):
                        yield asked, guided(*asked[1:]), f"{asked.where} guided by {SCALE:g}"

    @of("gaussian")
    def test_the_answer_is_a_pair_like_x_t(self) -> None:
        """It answers with x_0 and eps, finite and of the shape and dtype of x_t."""
        for asked, pair, where in self.answers():
            for name in ("x_0", "eps"):
                value, want = getattr(pair, name), asked.x_t
                found = f"{where} {name} is {tuple(value.shape)} {value.dtype}"
                need(
                    value.shape == want.shape and value.dtype == want.dtype,
                    f"{found}, and x_t {tuple(want.shape)} {want.dtype}",
                )
                need(torch.isfinite(value).all(), f"{found} and not finite")

    @of("gaussian")
    def test_the_pair_explains_x_t(self) -> None:
        """alpha x_0 + sigma eps = x_t, with and without guidance."""
        process = self.subjects[0].process
        for asked, pair, where in self.answers():
            clean, noise = (
                expand(c, asked.x_t) * v
                for c, v in ((process.alpha(asked.t), pair.x_0), (process.sigma(asked.t), pair.eps))
            )
            off = float((clean + noise - asked.x_t).abs().max()) / largest(
                asked.x_t, clean, noise
            )  # float32 is relative
            need(off < 1e-5, f"{where} it is off by {off:.2g}")

    @of("masked")
    def test_no_mass_is_on_mask(self) -> None:
        """It gives log-probabilities (B, L, V) of the V values, and [MASK] has none."""
        process = self.subjects[0].process
        for asked, found, where in self.answers():
            shape = tuple(found.log_probs.shape)
            if shape == (*asked.x_t.shape, process.vocab + 1):
                mass = float(found.log_probs[..., process.mask_id].exp().max())
                need(
                    False,
                    f"{where} log_probs are {shape}: [MASK] is among the values, with a probability of up to {mass:.3g}",
                )
            need(
                shape == (*asked.x_t.shape, process.vocab),
                f"{where} log_probs are {shape}, not (B, L, V) = {(*asked.x_t.shape, process.vocab)}",
            )

    @of("masked")
    def test_probabilities_make_one(self) -> None:
        """The probabilities of a token make 1, with and without guidance."""
        for _, found, where in self.answers():
            off = float((found.log_probs.logsumexp(-1)).abs().max())
            need(off < 1e-4, f"{where} the logarithm of their sum is up to {off:.2g}, not 0")

    @of("masked")
    def test_revealed_tokens_are_certain(self) -> None:
        """A revealed token is what it is, with probability 1, with and without guidance."""
        for asked, found, where in self.answers():
            known = asked.x_t != self.subjects[0].process.mask_id
            at_x = found.log_probs.gather(-1, torch.where(known, asked.x_t, 0)[..., None])[..., 0][known]
            least = float(at_x.exp().min()) if at_x.numel() else 1.0
            need(least > 1 - 1e-5, f"{where} one has probability {least:.3g}")

    @torch.no_grad()
    def test_guidance_of_scale_one_is_none(self) -> None:
        """Guidance of scale 1 changes nothing, and the two halves of one call are two calls."""
        guidable = [s for s in self.subjects if weakened(s.method, s.cond(s.batch(ROWS)), ROWS)]
        if not guidable:
            self.skip("it has no condition with a weak side to be guided away from")
        for subject in guidable:
            denoiser, weaken = subject.method.denoiser, subject.method.weaken
            for asked in self.asked(subject):
                plain, one = denoiser(*asked[1:])[0], Guided(denoiser, 1.0, weaken)(*asked[1:])[0]
                off = apart(finite(plain), finite(one))
                need(off < 1e-4, f"{asked.where} scale 1 is {off:.2g} of the largest away from none")
                both, two = (Guided(denoiser, SCALE, weaken, batched=b)(*asked[1:])[0] for b in (True, False))
                off = apart(finite(both), finite(two))
                need(
                    off < 1e-4, f"{asked.where} two halves in one call are {off:.2g} of the largest away from two calls"
                )

    @torch.no_grad()
    def test_the_label_is_heard(self) -> None:
        """With --cond label the prediction changes with the label."""
        told = [s for s in self.subjects if getattr(s.recipe.method.config, "cond", None) == "label" and s.classes > 1]
        if not told:
            self.skip("it has no --cond label, or no data with classes")
        for subject in told:
            batch = subject.batch(ROWS)
            need(batch.label is not None, f"the data{subject.flags} give no labels")
            other = subject.cond(batch._replace(label=(batch.label + 1) % subject.classes))
            answers = ((a, subject.method.denoiser(*a[1:])[0]) for a in self.asked(subject))
            heard = any(not torch.equal(subject.method.denoiser(a.x_t, a.t, other)[0], found) for a, found in answers)
            need(heard, f"{subject.flags} another label gives the same prediction at every t")

    @torch.no_grad()
    def test_rows_are_independent(self) -> None:
        """Each row is answered for itself, whatever the batch."""
        for subject in self.subjects:
            for asked in self.asked(subject):
                whole = finite(subject.method.denoiser(*asked[1:])[0])
                for k in range(ROWS):
                    cond = {name: value[k : k + 1] for name, value in asked.cond.items()}
                    off = apart(finite(subject.method.denoiser(asked.x_t[k : k + 1], asked.t, cond)[0])[0], whole[k])
                    need(
                        off < 1e-4,
                        f"{asked.where} a row alone is {off:.2g} of the largest away from what it is in a batch",
                    )

    @torch.no_grad()
    def test_one_time_or_one_a_row(self) -> None:
        """t as () and as (B,) give the same answer."""
        for subject in self.subjects:
            for where, x_t, t, cond in self.asked(subject):
                one, each = (finite(subject.method.denoiser(x_t, time, cond)[0]) for time in (t, t.expand(ROWS)))
                off = apart(one, each)
                need(off < 1e-4, f"{where} they are {off:.2g} of the largest apart")

    @torch.no_grad()
    def test_evaluation_is_a_function(self) -> None:
        """In evaluation it answers the same twice, draws nothing, and leaves x_t as it was."""
        for subject in self.subjects:
            for where, x_t, t, cond in self.asked(subject):
                kept = x_t.clone()
                first, moved = drawn(partial(subject.method.denoiser, x_t, t, cond))
                need(not moved, f"{where} it draws from the global stream of {', '.join(moved)}")
                need(torch.equal(x_t, kept), f"{where} x_t is another afterwards; do not work in place on it")
                need(
                    torch.equal(first[0], subject.method.denoiser(x_t, t, cond)[0]),
                    f"{where} it answers something else the second time",
                )


def finite(values: Tensor) -> Tensor:
    """Log-probabilities of what is impossible as a number that can be compared."""
    return values.clamp(min=-1e4)
