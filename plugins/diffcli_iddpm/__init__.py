"""Improved DDPM (Nichol and Dhariwal 2021): a learned reverse variance, by the variational bound; class-conditional."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from diffcli.errors import UsageError
from diffcli.plugin import Kind, Spec, Use, hookimpl, opt
from diffcli.sections import EvalOptions
from diffcli_vision import UNetOptions


@dataclass(frozen=True, kw_only=True)
class IDDPMOptions:
    """[method] of iddpm. What is left unset is settled at once: a recipe of a run says all of it."""

    objective: Literal["hybrid", "simple", "vlb"] | None = opt(
        None,
        "What is minimized: the error of eps (simple), the bound (vlb), or both (hybrid); unset is hybrid, or simple with a "
        "fixed --variance.",
    )
    vlb_weight: float = opt(0.001, "Weight of the bound in hybrid, times the number of timesteps.", min=0, max=1e3)
    variance: Literal["learned", "small", "large"] | None = opt(
        None,
        "Of a reverse step: learned between beta~ and beta, or fixed at beta~ (small) or beta (large); unset is learned, or "
        "small with --objective simple.",
    )
    time_sampling: Literal["uniform", "importance"] | None = opt(
        None,
        "Law of the training times: uniform, or by the size of the latest losses; unset is importance for vlb, else uniform.",
    )
    cond: Literal["none", "label"] = opt("label", "Condition: label learns classes, and guidance can be used.")
    label_dropout: float = opt(
        0.1, "Share of training labels replaced by the null class; 0 trains no unconditional branch.", min=0, max=1
    )

    def __post_init__(self) -> None:
        fixed = self.variance in ("small", "large")
        objective = self.objective or ("simple" if fixed else "hybrid")
        variance = self.variance or ("small" if objective == "simple" else "learned")
        sampling = self.time_sampling or ("importance" if objective == "vlb" else "uniform")
        if objective == "hybrid" and fixed:
            raise UsageError(f"hybrid learns the variance, but --variance is {variance}; use --objective simple or vlb")
        if objective == "simple" and not fixed and self.variance is not None:
            raise UsageError(
                "--objective simple does not train a learned variance; use --variance small or large, or --objective hybrid"
            )
        if objective != "hybrid" and self.vlb_weight != type(self).vlb_weight:
            raise UsageError(
                f"--vlb-weight {self.vlb_weight:g} weighs the bound in hybrid, but --objective is {objective}; leave one of them out"
            )
        for name, value in (("objective", objective), ("variance", variance), ("time_sampling", sampling)):
            object.__setattr__(self, name, value)

    def uses(self) -> Mapping[Kind, Use]:
        """The sampler walks with the variance that is trained."""
        return {"sampler": Use(name="ancestral", options={"variance": self.variance})}

    def sample(self) -> Mapping[str, Any]:
        """Respaced: 100 steps of the table, its first and its last among them (Nichol and Dhariwal 2021, section 4)."""
        return {"steps": 100, "spacing": "linspace"}


@dataclass(frozen=True, kw_only=True)
class IDDPMEval(EvalOptions):
    """[eval] of iddpm."""

    images: int = opt(1000, "Most held-out images that the loss and the bound are measured on.", min=1)
    nll_levels: int = opt(
        10, "Random timesteps an image at which vlb measures the bound, beside the last; 0 is all of them.", min=0
    )


@dataclass(frozen=True, kw_only=True)
class BigGANOptions:
    """[model] of biggan-unet."""

    channels: int = opt(32, "Channels of the first level, an even number.", min=4, max=4096)
    multipliers: tuple[int, ...] | None = opt(
        None,
        "Channels of each level over those of the first: 1,2,2,2; unset goes by the size of the image.",
        min=1,
        max=64,
    )
    blocks: int = opt(1, "Residual blocks a level.", min=1, max=64)
    attention: tuple[int, ...] | None = opt(
        None,
        "Levels with attention, one 0 or 1 each: 0,1,1,0; unset is all between the first and the last. The middle has it always.",
        min=0,
    )
    heads: int | None = opt(
        None,
        "Attention heads, one where they do not divide the channels of a level; unset is one for each 64 channels.",
        min=1,
        max=256,
    )
    dropout: float = opt(0.0, "Share of features dropped inside each residual block.", min=0, max=0.9)
    skips: Literal["block", "level"] = opt(
        "block", "What the way up gets of the way down: a map for each of its blocks, or one for each of its levels."
    )

    def fit(self, shape: tuple[int, ...]) -> BigGANOptions:
        """The same options with multipliers and attention filled in for images of `shape`, and checked.

        The rule: as many levels as keep the lowest map at 4 pixels a side or more, at most four, with multipliers
        1,2,2,2 from the top, and attention between the first level and the last: 32 is 0,1,1,0 and 16 is 0,1,0.
        """
        fitted = UNetOptions(multipliers=self.multipliers).fit(shape).multipliers
        assert fitted is not None
        levels = len(fitted)
        multipliers = self.multipliers or (1, 2, 2, 2)[:levels]
        attention = self.attention or (0, *(1,) * (levels - 2), 0)[:levels]
        UNetOptions(channels=self.channels, multipliers=multipliers, attention=attention).fit(shape)  # refuses misfits
        return replace(self, multipliers=multipliers, attention=attention)


@hookimpl
def diffcli_models() -> Iterable[Spec]:
    yield Spec(
        name="biggan-unet",
        target="diffcli_iddpm.network:BigGANUNet",
        summary="U-Net whose blocks are scaled and shifted by time and class (adaptive group normalization).",
        config=BigGANOptions,
        family="gaussian",
        paper="https://arxiv.org/abs/2102.09672",
    )


@hookimpl
def diffcli_methods() -> Iterable[Spec]:
    yield Spec(
        name="iddpm",
        target="diffcli_iddpm.method:IDDPM",
        summary="Improved DDPM: noise and variance of each step, by class.",
        config=IDDPMOptions,
        family="gaussian",
        uses={
            "model": Use(name="biggan-unet"),
            "schedule": Use(name="cosine"),
            "dataset": Use(name="shapes"),
            "sampler": Use(name="ancestral", options={"variance": "learned"}),
        },
        # Small batches go further in two minutes, and bfloat16 takes 0.78 of the time at the same loss (one Zen 5 core).
        train={"steps": 1800, "batch_size": 32, "lr": 3e-3, "warmup": "50", "precision": "bf16"},
        eval=IDDPMEval,
        metrics={"vlb": "diffcli_iddpm.bound:measure"},
        paper="https://arxiv.org/abs/2102.09672",
    )
