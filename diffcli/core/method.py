"""A method is one paper: its networks, and the loss that trains them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from diffcli.core.denoiser import Cond, Denoiser
from diffcli.core.random import Rng

Grid = Callable[..., Tensor]
Wrap = Callable[[Denoiser], Denoiser]


class Batch(NamedTuple):
    """Rows of data, or of wishes.

    index (B,): stream positions in training, image numbers in sampling and evaluation. x: in the process's space, None
    when nothing is given. label (B,): -1 is no class. known: False where x is missing or to be painted. eps: the noise
    paired with x by reflow. z: latents, given in place of the image they are of.
    """

    index: Tensor  # type: ignore[assignment]  # a tuple has a method of this name
    x: Tensor | None = None
    label: Tensor | None = None
    known: Tensor | None = None
    eps: Tensor | None = None
    z: Tensor | None = None


class Preview(NamedTuple):
    """How pictures are drawn during training.

    sampler, sample: tables like [sampler] and [sample], over the recipe's own; plots: of the method's own plots, those
    drawn with each preview on held-out data; opening: those drawn once, at the start.
    """

    sampler: Mapping[str, Any] | None = None
    sample: Mapping[str, Any] = {}
    plots: tuple[str, ...] = ()
    opening: tuple[str, ...] = ()


class Method(nn.Module, ABC):
    """One paper: networks, and the loss that trains them.

    `denoiser` is an annotation only: a class attribute `= None` would hide the submodule of that name.

    reconstructs: samples are made of whole given images; `wish` gives them. any_size: of any size, in pixels a multiple of
    `multiple`. calibration: most training images that `calibrate` is shown. spacing: the name of the method's own levels,
    None where it has none and `times` may be any. on_grid: its denoiser knows the times of its own grid alone.
    """

    denoiser: Any
    reconstructs: ClassVar[bool] = False
    any_size: ClassVar[bool] = False
    multiple: int = 1
    calibration: ClassVar[int] = 256
    spacing: str | None = None
    on_grid: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.denoiser = None

    @abstractmethod
    def loss(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """What is minimised, as "loss", and what is logged beside it.

        A mean over rows, so that halves of a batch average to the whole.
        """

    def cond(self, batch: Batch, rng: Rng) -> Cond:
        """What the denoiser is told: the same in training and sampling; drops and masks only if self.training."""
        return {}

    def weaken(self, cond: Cond) -> Cond:
        """Same keys and shapes: null label, masked tokens. Guidance extrapolates away from it."""
        return cond

    @property
    def guidable(self) -> bool:
        """Whether guidance has a weak side to lead away from; by default where classes are known."""
        return bool(getattr(self, "conditional", False))

    def weakening(self, options: Any) -> Callable[[Cond], Cond]:
        """The weak side that [sample] of the method asks for, where there are several."""
        return self.weaken

    def view(self, dataset: Any) -> Any:
        """Any split of the recipe's data set as the method sees it; itself unless, say, it is binarized first."""
        return dataset

    def data(self, dataset: Any) -> Any:
        """What is trained on, given the recipe's data set: its view, unless the method brings its own (reflow's pairs)
        or hides a part of it (missing pixels)."""
        return self.view(dataset)

    def notes(self, data: Any) -> list[str]:
        """Lines of the run header that say what the method chose or found in the data it is trained on."""
        return []

    def parameter_groups(self) -> Iterable[Mapping[str, Any]]:
        """Groups of parameters for the optimizer, each with what differs from [train].

        part: the name of what a group belongs to, whose gradients are clipped together if [train] clips by part.
        """
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def networks(self) -> Iterable[nn.Module]:
        """The modules whose calls are compiled where that is asked for: the denoiser's network, else all there are."""
        net = getattr(self.denoiser, "net", None)
        return self.children() if net is None else [net]

    def preview(self) -> Preview:
        """The cheap way that pictures during training are drawn."""
        nodes = self.denoiser.process.nodes
        return Preview(sampler={"name": "ddim"}, sample={"steps": min(50, nodes or 50)})

    def measures(self, facts: Any) -> tuple[str, ...]:
        """What is measured when nothing is asked for; facts: engine.assemble.Facts of the data.

        Accuracy is left out where no judge knows them.
        """
        if facts.alphabet:
            return ("loss",)
        of_classes = ("accuracy", "agreement") if getattr(self, "conditional", False) else ()
        return ("loss", "fd", "kd", "prdc", *of_classes, "memorization")

    def wish(self, batch: Batch, options: Any, held_out: Callable[[], Any]) -> Batch:
        """What is sampled for: the batch (index and label), with what is given of x, if [sample] of the method says so.

        held_out: opens the held-out images, for methods that are asked to complete them.
        """
        return batch

    def files(self, options: Any) -> list[Path]:
        """The user's own pictures that samples are made of, if [sample] of the method names any."""
        return []

    def picture(self, path: Path) -> Tensor:
        """One of `files` as (C, H, W) in [-1, 1]: at its own size if any_size, else at that of the method's images."""
        raise NotImplementedError

    def codes(self, options: Any) -> list[tuple[Tensor, tuple[int, int] | None]]:
        """The user's own latents (c, h, w) that samples are decoded from, if [sample] of the method names any.

        Each with the (H, W) of the picture that was encoded, None where that is what its latents decode to.
        """
        return []

    def begin(self, shape: tuple[int, ...], batch: Batch, rng: Rng) -> Tensor:
        """x at t = 1: the prior, or the prior with given tokens."""
        x: Tensor = self.denoiser.process.prior(shape, rng)
        return x

    def default_steps(self, sampler: Any) -> int:
        """Steps taken when none are asked for."""
        asked: int = sampler.steps(self.denoiser.process)
        return asked

    def times(self, steps: int, spacing: str, grid: Grid) -> Tensor:
        """(steps + 1,) float64 CPU times, 1 ... 0, made by `grid` unless the method owns its levels.

        Raises UsageError for a number of steps that its levels do not have.
        """
        return grid(self.denoiser.process, steps, spacing)

    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Before a checkpoint, in eval mode without gradient, raw and averaged weights alike: statistics of the data.

        batches: the first `calibration` images of the training data, unmirrored, some at a time.
        """

    def diagnose(self, dataset: Any, device: torch.device) -> dict[str, float]:
        """Numbers worth logging once before and once after training."""
        return {}

    def trajectory(
        self, batch: Batch, shape: tuple[int, ...], sampler: Any, times: Tensor, wrap: Wrap, rng: Rng
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(t, x) from the start to the result, both included.

        sampler: None, with times 1 and 0, where the method takes none.
        """
        x, cond = self.begin(shape, batch, rng), self.cond(batch, rng)
        yield times[0], x
        yield from sampler.trajectory(wrap(self.denoiser), x, times, cond=cond, rng=rng)

    def keep(self, samples: Any, options: Any, folder: Path) -> list[Path]:
        """Files of its own that a sampling command leaves beside the pictures; samples: engine.sample.Samples."""
        return []


class Labelled(Method):
    """A method that may know classes: the label is a condition, dropped in training so that guidance has a weak side.

    Label -1 is the null class (Ho and Salimans 2022, Algorithm 1).
    """

    def __init__(self, conditional: bool, label_dropout: float) -> None:
        super().__init__()
        self.conditional, self.label_dropout = conditional, label_dropout

    def cond(self, batch: Batch, rng: Rng) -> Cond:
        if not self.conditional:
            return {}
        if batch.label is None:
            return {"label": torch.full((len(batch.index),), -1, device=batch.index.device)}
        if not self.training:
            return {"label": batch.label}
        dropped = rng.uniform("label", (), torch.float32) < self.label_dropout
        return {"label": torch.where(dropped, -1, batch.label)}

    def weaken(self, cond: Cond) -> Cond:
        return {"label": torch.full_like(cond["label"], -1)}
