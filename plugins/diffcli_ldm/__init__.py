"""Latent diffusion (Rombach et al. 2022): DDPM on the latents of an autoencoder, with two networks that are told a class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from diffcli.errors import UsageError
from diffcli.plugin import Kind, Spec, Use, hookimpl, opt
from diffcli_vision import UNetOptions

MODELS = {"concat": "unet-concat", "cross-attention": "unet-cross"}
PLAIN = Use(name="unet", options={"multipliers": (1, 2), "attention": (0, 1)})


@dataclass(frozen=True, kw_only=True)
class LDMOptions:
    """[method] of ldm."""

    prediction: Literal["eps", "x0", "v"] = opt("eps", "What the network predicts.")
    cond: Literal["none", "label"] = opt("label", "Condition: label learns classes, and guidance can be used.")
    conditioning: Literal["concat", "cross-attention"] | None = opt(
        None,
        "How the network is told the class: as one more channel, or as tokens that it looks at; unset is concat, or as --model says.",
    )
    label_dropout: float = opt(
        0.1, "Share of training labels replaced by the null class; 0 trains no unconditional branch.", min=0, max=1
    )

    def __post_init__(self) -> None:
        if self.cond == "none" and self.conditioning is not None:
            raise UsageError(
                f"--conditioning {self.conditioning} tells the network a class, and --cond none has none; leave one of them out"
            )

    def uses(self) -> Mapping[Kind, Use]:
        """The network of the form that is asked for; without classes it is that of ddpm, sampled by 50 steps of DDIM."""
        if self.cond == "none":
            return {"model": PLAIN, "sampler": Use(name="ddim")}
        return {"model": Use(name=MODELS[self.conditioning or "concat"])}

    def sample(self) -> Mapping[str, Any]:
        """Where classes are known, they are asked for with guidance, and in more steps."""
        return {"steps": 100, "guidance_scale": 3.0} if self.cond == "label" else {}


@dataclass(frozen=True, kw_only=True)
class ConcatOptions(UNetOptions):
    """[model] of unet-concat: levels go down to 2 pixels a side, as latents are small."""

    lowest: ClassVar[int] = 2


@dataclass(frozen=True, kw_only=True)
class CrossOptions(ConcatOptions):
    """[model] of unet-cross."""

    context_tokens: int = opt(4, "Tokens that a class is made of; with one there would be nothing to choose.", min=2)
    context_dim: int = opt(128, "Numbers of a token.", min=1, max=4096)


@hookimpl
def diffcli_methods() -> Iterable[Spec]:
    yield Spec(
        name="ldm",
        target="diffcli_ldm.method:LatentDiffusion",
        summary="Latent diffusion: DDPM on the latents of an autoencoder, class by class.",
        config=LDMOptions,
        family="gaussian",
        uses={
            "model": Use(name="unet-concat"),
            # Latents have no range of their own, and an error of eps becomes one of x_0 times sigma/alpha: at t = 1 that
            # is 14.6 here, and 20,291 with cosine.
            "schedule": Use(name="scaled-linear"),
            "dataset": Use(name="digits"),
            "sampler": Use(name="ddim", options={"eta": 0.05}),
        },
        train={"steps": 1200, "lr": 2e-3, "warmup": "50"},
        autoencoder="vae",
        paper="https://arxiv.org/abs/2112.10752",
    )


@hookimpl
def diffcli_models() -> Iterable[Spec]:
    yield Spec(
        name="unet-concat",
        target="diffcli_ldm.network:ConcatUNet",
        summary="U-Net that is told the class as one more channel of its input.",
        config=ConcatOptions,
        family="gaussian",
        paper="https://arxiv.org/abs/2112.10752",
    )
    yield Spec(
        name="unet-cross",
        target="diffcli_ldm.network:CrossUNet",
        summary="U-Net that looks at the class, a few tokens, by cross-attention.",
        config=CrossOptions,
        family="gaussian",
        paper="https://arxiv.org/abs/2112.10752",
    )
