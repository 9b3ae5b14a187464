"""Flow matching that learns its own weight, Adams-Bashforth of order 3, and Lissajous curves. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from diffcli import Spec, Use, hookimpl, opt


@dataclass(frozen=True, kw_only=True)
class UncertainOptions:
    """[method] of uncertain-flow."""

    frequencies: int = opt(8, "Cosines of the time that the learned weight is a sum of.", min=1, max=256)
    weight_lr: float = opt(0.01, "Peak learning rate of the weight.", min=0)


@dataclass(frozen=True, kw_only=True)
class LissajousOptions:
    """[dataset] of lissajous."""

    size: int = opt(14, "Pixels a side.", min=8, max=128)


@hookimpl
def diffcli_methods() -> Iterable[Spec]:
    yield Spec(
        name="uncertain-flow",
        target="toyflow.method:UncertainFlow",
        summary="Flow matching that learns how much each time is worth.",
        config=UncertainOptions,
        family="gaussian",
        uses={
            "model": Use(name="unet", options={"channels": 24}),
            "schedule": Use(name="rectified"),
            "dataset": Use(name="lissajous"),
            "sampler": Use(name="ab3"),
        },
        train={"steps": 500, "lr": 2e-3, "warmup": "50", "batch_size": 64},
        plots={"uncertainty": "toyflow.figure:uncertainty"},
        paper="https://arxiv.org/abs/2312.02696",
    )


@hookimpl
def diffcli_samplers() -> Iterable[Spec]:
    yield Spec(
        name="ab3",
        target="toyflow.sampler:ab3",
        summary="Order 3, one call a step and two more at the start: Adams-Bashforth in the straight frame.",
        family="gaussian",
        paper="https://arxiv.org/abs/2204.13902",
    )


@hookimpl
def diffcli_datasets() -> Iterable[Spec]:
    yield Spec(
        name="lissajous",
        target="toyflow.dataset:lissajous",
        summary="2,000 Lissajous curves of four kinds, 14x14 grey, drawn on the spot.",
        config=LissajousOptions,
    )
