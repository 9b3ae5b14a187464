"""DDPM (Ho et al. 2020) and its implicit samplers (Song et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from diffcli.plugin import Spec, Use, hookimpl, opt


@dataclass(frozen=True, kw_only=True)
class DDPMOptions:
    """[method] of ddpm."""

    prediction: Literal["eps", "x0", "v"] = opt("eps", "What the network predicts.")
    cond: Literal["none", "label"] = opt("none", "Condition: label learns classes, and guidance can be used.")
    label_dropout: float = opt(
        0.1, "Share of training labels replaced by the null class; 0 trains no unconditional branch.", min=0, max=1
    )


@hookimpl
def diffcli_methods() -> Iterable[Spec]:
    yield Spec(
        name="ddpm",
        target="diffcli_ddpm.method:DDPM",
        summary="Denoising diffusion: predict the noise of 1000 small steps.",
        config=DDPMOptions,
        family="gaussian",
        uses={
            "model": Use(name="unet"),
            "schedule": Use(name="cosine"),
            "dataset": Use(name="digits"),
            # Of the random walks that nearest to the law by few calls (`diffcli bench samplers`: cosine, logsnr grid, 2
            # dimensions, coarse and fine laws, 5 calls 0.089 and 0.111, 10 calls 0.041 and 0.033; ancestral 0.149 and
            # 0.118, 0.091 and 0.075; churn 0.305 and 0.356, 0.077 and 0.069). Chance is 0.023 and 0.019 with a standard
            # deviation of 0.005 and 0.006: at its own 50 steps the table cannot tell the three apart, nor in 64
            # dimensions from 20 calls on, and the choice rests on what follows. On trained digits, by class, x_0
            # clipped, n = 500, fd[pixels] and agreement[3nn] (diffcli eval ddpm --metric fd,agreement --per-class 50
            # --sampler NAME --steps N): 0.65 and 0.66, 0.986 and 0.970 for two training seeds; unipc 20, on levels that
            # ended at 1/(5N), 0.72 and 0.72, 0.970 and 0.972 (16.8 without clip); ddim 50 0.71, 0.974 and ancestral 250
            # 0.64, 0.982 for one.
            "sampler": Use(name="dpmpp-2m-sde"),
        },
        train={"steps": 1200, "lr": 2e-3, "warmup": "50"},
        paper="https://arxiv.org/abs/2006.11239",
    )
