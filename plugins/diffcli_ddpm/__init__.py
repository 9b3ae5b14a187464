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
            "sampler": Use(name="ancestral"),
        },
        train={"steps": 1200, "lr": 2e-3, "warmup": "50"},
        paper="https://arxiv.org/abs/2006.11239",
    )
