"""Rectified flow (Liu et al. 2022), with logit-normal times (Esser et al. 2024) and reflow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffcli.errors import UsageError
from diffcli.plugin import Spec, Use, hookimpl, opt
from diffcli.sections import SampleOptions


@dataclass(frozen=True, kw_only=True)
class RFOptions:
    """[method] of rf."""

    time_sampling: Literal["logit_normal", "uniform"] | None = opt(
        None, "Law of the training times; unset is logit_normal, and uniform on --pairs."
    )
    time_mean: float = opt(0.0, "Mean of the logit of t.")
    time_std: float = opt(1.0, "Standard deviation of the logit of t.", min=1e-3)
    time_uniform: float = opt(0.0, "Share of uniform times mixed into logit_normal.", min=0, max=1)
    cond: Literal["none", "label"] = opt("none", "Condition: label learns classes, and guidance can be used.")
    label_dropout: float = opt(
        0.1, "Share of training labels replaced by the null class; 0 trains no unconditional branch.", min=0, max=1
    )
    pairs: Path | None = opt(None, "File of `sample --pairs`: reflow trains on its pairs in place of the data set.")


@dataclass(frozen=True, kw_only=True)
class RFSample(SampleOptions):
    """[sample] of rf: nothing is clipped, and pairs can be drawn for reflow."""

    clip: float | None = opt(0.0, "Bound of the predicted x_0; 0 is none.", min=0)
    pairs: int | None = opt(None, "Draw this many (x_0, eps) pairs for reflow, into pairs.safetensors.", min=2)

    def __post_init__(self) -> None:
        if self.pairs is not None:
            if self.per_class is not None:
                raise UsageError("--pairs is the number of images in all; leave --per-class out")
            object.__setattr__(self, "samples", self.pairs)
            object.__setattr__(self, "steps", self.steps or 100)


@hookimpl
def diffcli_methods() -> Iterable[Spec]:
    yield Spec(
        name="rf",
        target="diffcli_rf.method:RectifiedFlow",
        summary="Rectified flow: learn the velocity of straight lines from noise to data.",
        config=RFOptions,
        family="gaussian",
        uses={
            "model": Use(name="unet"),
            "schedule": Use(name="rectified"),
            "dataset": Use(name="digits"),
            # The least error of all solvers on the rectified path at 10 calls (`diffcli bench samplers`, 2 and 64
            # dimensions: coarse laws 0.0083 and 0.0066, fine 0.00096 and 0.0014). At its own 20 steps on the logsnr
            # grid, coarse 0.00085 and 0.0015, fine 0.00067 and 0.00090; midpoint by as many calls 0.0024 and 0.0015,
            # 0.00042 and 0.00023, for it calls within the last step, which is most of the error of fine laws; ddim by
            # 50 0.0077 and 0.0068, 0.0015 and 0.0015. On trained digits, by class, n = 500, training seed 0, fd[pixels]
            # and agreement[3nn] (diffcli eval rf --metric fd,agreement --extractor pixels --per-class 50 --sampler NAME
            # --steps N): 0.753, 0.986; midpoint by 100 calls on the uniform grid 0.755, 0.986. A solver, not a random
            # walk: reflow pairs each sample with its noise.
            "sampler": Use(name="unipc"),
        },
        train={"steps": 1200, "lr": 2e-3, "warmup": "50"},
        sample=RFSample,
        metrics={"straightness": "diffcli_rf.reflow:measure"},
        paper="https://arxiv.org/abs/2209.03003",
    )
