"""A sampler is a frozen value. The state of a walk is threaded through `step`; coefficients are planned once for the whole grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor

from diffcli.core.denoiser import Cond, Denoiser
from diffcli.core.process import Process
from diffcli.core.random import Rng
from diffcli.plugin import Family


class Sampler(ABC):
    """Solves the reverse process from t = 1 to t = 0; no denoiser inside, no state inside.

    order: of global convergence in the step size, None for a random walk. spacing: of the grid it is most exact on, as
    measured by `diffcli bench samplers`, taken when none is asked for; None is the process's own. exact: whether its walks
    end on the law of the data in the limit of many steps.
    """

    family: ClassVar[Family]
    order: ClassVar[int | None] = None
    spacing: ClassVar[str | None] = None
    exact: ClassVar[bool] = True

    def steps(self, process: Process) -> int:
        """Steps taken when none are asked for."""
        return min(50, getattr(process, "nodes", None) or 50)

    def nfe(self, steps: int) -> int:
        """Network evaluations per image of a walk of `steps` steps."""
        return steps

    def plan(self, process: Any, times: Tensor) -> Sequence[Any]:
        """What each step needs to know: by default (t, s). A hot sampler computes all its coefficients here, as Python floats."""
        return list(pairwise(times.unbind()))

    def start(self, denoiser: Denoiser, x: Tensor, times: Tensor, rng: Rng) -> Any:
        """The state before the first step; None if there is none."""
        return None

    @abstractmethod
    def step(
        self, denoiser: Denoiser, x_t: Tensor, point: Any, *, cond: Cond, state: Any, rng: Rng
    ) -> tuple[Tensor, Any]:
        """From x_t to x_s along one point of the plan, and the state after it."""

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, *, cond: Cond, rng: Rng
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(s, x_s) after each step; s is (B,) where rows jump to their own events. The start is not yielded."""
        state = self.start(denoiser, x, times, rng)
        for point, s in zip(self.plan(denoiser.process, times), times[1:].unbind(), strict=True):
            x, state = self.step(denoiser, x, point, cond=cond, state=state, rng=rng)
            yield s, x
