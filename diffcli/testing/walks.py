"""The laws that hold for samplers of every family: what a walk costs, what it may touch, and what it depends on."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar, NamedTuple
from unittest import SkipTest

import torch
from torch import Tensor

from diffcli.core.denoiser import Counted
from diffcli.core.random import Rows
from diffcli.engine.bench import problem
from diffcli.samplers.base import Sampler
from diffcli.samplers.grid import grid
from diffcli.schedules.masked import CosineMask, LogLinear, PolynomialMask
from diffcli.testing.known import Table, Told, gaussian, noise, partly, path, uniform
from diffcli.testing.suite import Suite, addressed, apart, drawn, need

TOKENS = 12
MASKED = {
    "loglinear": LogLinear,
    "cosine-mask": CosineMask,
    "polynomial-mask": lambda vocab: PolynomialMask(vocab, 3.0),
}


class Case(NamedTuple):
    """A denoiser, and where a walk on it begins."""

    name: str
    denoiser: Any
    x: Tensor

    @property
    def process(self) -> Any:
        return self.denoiser.process


def end(walked: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The last point of a walk; a law about its place does not apply where it is nowhere."""
    found = walked[-1][1]
    if not bool(torch.isfinite(found).all()):
        raise SkipTest("its walks are not finite, as another law says")
    return found


class Walks(Suite):
    """The laws of every sampler."""

    kind: ClassVar[str] = "sampler"

    @classmethod
    def make(cls) -> Any:
        return cls.spec().load()(cls.config())

    def cases(self, rows: int = 16) -> Iterator[Case]:
        """Processes of its family, each with a known denoiser."""
        if self.family() == "masked":
            for name, make in MASKED.items():
                masked = make(3)
                yield Case(name, Table(masked, TOKENS), partly(masked, rows, TOKENS))
        else:
            for name in ("vp", "edm", "rectified", "cosine"):
                process = gaussian()[name]
                yield Case(name, problem(process), noise(process, rows))

    def all(self) -> Iterator[Case]:
        """Every process of its family."""
        if self.family() == "masked":
            yield from self.cases()
        else:
            yield from (Case(name, problem(p), noise(p, 8)) for name, p in gaussian().items())

    def one(self) -> Case:
        """One of them, where any will do."""
        return next(self.cases())

    def ends(self, denoiser: Any, x: Tensor, times: Tensor, seed: int = 0) -> Tensor:
        """Where the walk from x ends."""
        return end(path(self.made, denoiser, x, times, rng=Rows(seed, torch.arange(len(x)), len(x))))

    def test_it_is_a_sampler_of_its_family(self) -> None:
        """It is a Sampler of the family that its spec says, with steps and a spacing of its own."""
        need(
            isinstance(self.made, Sampler), f"it is a {type(self.made).__name__}; derive it from samplers.base.Sampler"
        )
        said, order, steps = self.spec().family, self.made.order, self.made.steps(self.one().process)
        need(self.made.family == said, f"its family is {self.made.family}, but its spec says {said}")
        need(
            order is None or (type(order) is int and order >= 1), f"its order is {order!r}, not None or a whole number"
        )
        need(type(steps) is int and steps >= 1, f"it takes {steps!r} steps when none are asked for")
        for _, denoiser, _ in self.all():
            grid(denoiser.process, min(10, self.made.steps(denoiser.process)), self.made.spacing)

    def test_walks_end_finite_in_the_type_of_x(self) -> None:
        """Walks from 1 to 0 on every process are finite and keep shape and dtype, for any steps and spacing."""
        spacings = (
            ("uniform", "linspace", "leading")
            if self.family() == "masked"
            else ("uniform", "karras", "logsnr", "leading")
        )
        dtypes = (torch.int64,) if self.family() == "masked" else (torch.float64, torch.float32)
        for name, denoiser, x in self.all():
            for dtype in dtypes:
                for steps in (1, 2, 3, 20):
                    for spacing in spacings:
                        where = f"of {steps} steps of {spacing} spacing on {name}"
                        times = grid(denoiser.process, steps, spacing)
                        found = path(self.made, denoiser, x.to(dtype), times)[-1][1]
                        need(
                            found.shape == x.shape and found.dtype == dtype,
                            f"{where}: {tuple(found.shape)} {found.dtype} came of {tuple(x.shape)} {dtype}",
                        )
                        need(torch.isfinite(found).all(), f"{where}: the end is not finite")
                        if (
                            dtype.is_floating_point and steps == 20 and spacing != "leading"
                        ):  # which starts below the level of its noise
                            need(
                                found.abs().max() < 5,
                                f"{where}: the end is at {float(found.abs().max()):.3g}, far from data in [-1, 1]",
                            )

    def test_calls_are_what_nfe_says(self) -> None:
        """nfe(steps) is the number of network calls; of tokens it is at most that, or one a token."""
        for name, denoiser, x in self.all():
            for steps in (1, 2, 3, 20):
                counted = Counted(denoiser)
                path(self.made, counted, x, uniform(denoiser.process, steps))
                said, found = self.made.nfe(steps), counted.rows / len(x)
                what = f"nfe({steps}) is {said:g}, but {found:g} calls were counted on {name}"
                need(found <= max(said, TOKENS) if self.family() == "masked" else found == said, what)

    def test_a_walk_leaves_no_trace(self) -> None:
        """A walk changes neither the x it is given, nor a point it has yielded, nor the sampler."""
        sampler: Any = self.made and self.make()  # a new one
        before = copy.deepcopy(sampler)
        for name, denoiser, x in self.cases():
            rng, kept = Rows(0, torch.arange(len(x)), len(x)), [(x, x.clone())]
            for _, x_s in sampler.trajectory(denoiser, x, uniform(denoiser.process, 6), cond={}, rng=rng):
                kept.append((x_s, x_s.clone()))
            changed = [k for k, (now, then) in enumerate(kept) if not torch.equal(now.nan_to_num(), then.nan_to_num())]
            what = "x at t = 1" if 0 in changed else f"its point {changed[:1]}"
            need(not changed, f"after a walk on {name} {what} is another; do not work in place")
        need(vars(sampler) == vars(before), "its fields are others after a walk; thread the state through step")

    def test_no_global_random_numbers(self) -> None:
        """It draws from rng alone, never from a global stream."""
        for name, denoiser, x in self.cases():
            _, moved = drawn(partial(self.ends, denoiser, x, uniform(denoiser.process, 6)))
            need(not moved, f"a walk on {name} draws from the global stream of {', '.join(moved)}; draw from rng")

    def test_the_same_address_is_the_same_sample(self) -> None:
        """A sample follows from (seed, number) alone, in any batch."""
        for name, denoiser, x in self.cases():
            times = uniform(denoiser.process, 6)
            whole = addressed(partial(self.ends, denoiser, x, times))
            need(
                torch.equal(whole, end(path(self.made, denoiser, x, times))),
                f"two walks of one seed on {name} end apart",
            )
            for rows in (torch.tensor([5]), torch.tensor([5, 9])):
                part = end(path(self.made, denoiser, x[rows], times, rng=Rows(0, rows, len(x))))
                off = apart(part, whole[rows])
                need(
                    off < 1e-11,
                    f"rows {rows.tolist()} on {name} end {off:.2g} away from what they are in a batch of {len(x)}",
                )

    def test_only_a_random_walk_depends_on_the_seed(self) -> None:
        """A solver, which declares an order, does not depend on the seed; a random walk does."""
        _, denoiser, x = self.one()
        times = uniform(denoiser.process, 6)
        a, b = (addressed(partial(self.ends, denoiser, x, times, s)) for s in (1, 2))
        if self.made.order is None:
            need(not torch.equal(a, b), "two seeds end at the same samples; if it is no random walk, declare its order")
        else:
            need(
                torch.equal(a, b),
                f"two seeds end apart, but it declares order {self.made.order}; a random walk has order None",
            )

    def test_a_trajectory_tells_the_time_of_each_point(self) -> None:
        """A trajectory yields each time of the grid after the first, and x there."""
        _, denoiser, x = self.one()
        times = uniform(denoiser.process, 6)
        told = [float(s.max()) for s, _ in path(self.made, denoiser, x, times)]
        need(told == times[1:].tolist(), f"of 6 even steps it tells {', '.join(f'{t:.3g}' for t in told)}")

    def test_steps_along_the_plan_are_the_trajectory(self) -> None:
        """plan has a point for each step, and start and step along it are the trajectory."""
        for name, denoiser, x in self.cases():
            times, rng = uniform(denoiser.process, 6), Rows(0, torch.arange(len(x)), len(x))
            addressed(partial(self.ends, denoiser, x, times))
            x_t, points = x.clone(), list(self.made.plan(denoiser.process, times))
            need(len(points) == 6, f"the plan of 6 steps has {len(points)} points")
            state = self.made.start(denoiser, x_t, times, rng)
            for k, (point, (_, x_s)) in enumerate(zip(points, path(self.made, denoiser, x, times), strict=True)):
                x_t, state = self.made.step(denoiser, x_t, point, cond={}, state=state, rng=rng)
                off = apart(x_t, x_s)
                need(off < 1e-11, f"on {name} they are {off:.2g} apart after step {k + 1} of 6")

    def test_rows_keep_their_condition(self) -> None:
        """The denoiser is asked about each row with its own condition."""
        case = self.one()
        label = torch.arange(len(case.x)) % 3
        process = case.process
        found = end(path(self.made, Told(process), case.x, uniform(process, 6), cond={"label": label}))
        want = (
            torch.where(case.x == process.mask_id, label[:, None], case.x)
            if self.family() == "masked"
            else label[:, None].expand(found.shape)
        )
        wrong = int((found - want).abs().double().flatten(1).amax(1).gt(1e-6).sum())
        need(not wrong, f"{wrong} of {len(found)} rows end where the condition of another leads, or of none")
