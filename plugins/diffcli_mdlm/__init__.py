"""Masked diffusion (Sahoo et al. 2024), from clean data or, with a consistency loss, from data with missing pixels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from diffcli.errors import UsageError
from diffcli.plugin import Spec, Use, hookimpl, opt
from diffcli.sections import EvalOptions, SampleOptions
from diffcli_vision import UNetOptions


def fraction(missing: float | None) -> None:
    """Refuse percent, and all of it."""
    if missing is not None and missing >= 1:
        raise UsageError(f"--missing is {missing:g}, but missing is a fraction: for 90 % write 0.9")


@dataclass(frozen=True, kw_only=True)
class MDLMOptions:
    """[method] of mdlm."""

    missing: float | None = opt(
        None,
        "Share of the training pixels that is missing, from 0 to below 1; unset is 0, or 0.5 with --consistency-weight.",
        min=0,
    )
    consistency_weight: float | None = opt(
        None, "Weight of the consistency loss on missing pixels; unset is 0, or 1 with --missing.", min=0, max=1e4
    )
    consistency_start: float = opt(0.0, "Epoch from which the consistency loss is added.", min=0)
    consistency_substeps: int = opt(4, "Levels in which the consistency loss reveals pixels by draws.", min=1, max=256)
    corruption_seed: int = opt(0, "Which pixels are missing follows from it.", min=0, max=2**31 - 1)
    binarize: Literal["threshold", "static", "dynamic"] = opt(
        "threshold", "Grey to black and white: above 127 of 255; one draw for ever; or a new draw at each access."
    )
    cond: Literal["none", "label"] = opt("none", "Condition: label learns classes, and guidance can be used.")
    label_dropout: float = opt(
        0.1, "Share of training labels replaced by the null class; 0 trains no unconditional branch.", min=0, max=1
    )

    def __post_init__(self) -> None:
        fraction(self.missing)
        if self.missing == 0 and self.consistency_weight:
            raise UsageError(
                "--consistency-weight needs missing pixels, but --missing is 0; leave --missing out for 0.5"
            )
        if not self.weight and (self.consistency_start or self.consistency_substeps != 4):
            raise UsageError(
                "--consistency-start and --consistency-substeps are of the consistency loss, which has no weight; "
                "give it one with --consistency-weight, or leave them out"
            )

    @property
    def p(self) -> float:
        """The share that is missing: with a weight alone, half."""
        return self.missing if self.missing is not None else 0.5 if self.consistency_weight else 0.0

    @property
    def weight(self) -> float:
        """The weight of the consistency loss: with missing pixels alone, 1."""
        return self.consistency_weight if self.consistency_weight is not None else 1.0 if self.missing else 0.0

    def train(self) -> dict[str, int]:
        """A step with the consistency loss costs as much as five without; its ablation, weight 0, is as long."""
        return {"steps": 550} if self.p else {}


def hides(missing: float | None) -> None:
    """Refuse a share of pixels that cannot be hidden, or hides none."""
    fraction(missing)
    if missing == 0:
        raise UsageError("--missing 0 hides nothing; leave it out, or give a share such as 0.5")


@dataclass(frozen=True, kw_only=True)
class MDLMSample(SampleOptions):
    """[sample] of mdlm: from nothing, or from given tokens, which stay."""

    prompt: str | None = opt(None, "Text that each sample begins with.")
    inpaint: bool = opt(False, "Complete held-out images whose pixels are missing, three times each.")
    missing: float | None = opt(
        None, "Share of pixels hidden by --inpaint; unset is that of the training, or 0.5.", min=0
    )

    def __post_init__(self) -> None:
        hides(self.missing)
        if self.prompt is not None and self.inpaint:
            raise UsageError("--prompt is of texts and --inpaint of images; keep one")
        if self.missing is not None and not self.inpaint:
            raise UsageError("--missing says what --inpaint hides; add --inpaint, or leave it out")
        if self.inpaint and (self.label is not None or self.per_class is not None):
            raise UsageError("--inpaint completes each image as its own class; leave --label and --per-class out")


@dataclass(frozen=True, kw_only=True)
class MDLMEval(EvalOptions):
    """[eval] of mdlm."""

    draws: int = opt(1, "Times at which the bound of each held-out image is measured.", min=1, max=10000)
    missing: float | None = opt(
        None, "Share of pixels hidden for recovery; unset is that of the training, or 0.5.", min=0
    )

    def __post_init__(self) -> None:
        hides(self.missing)


@dataclass(frozen=True, kw_only=True)
class MaskTransformerOptions:
    """[model] of mask-transformer."""

    width: int = opt(384, "Features of a token; heads must divide it.", min=8, max=8192)
    depth: int = opt(6, "Blocks.", min=1, max=128)
    heads: int = opt(6, "Attention heads of a block.", min=1, max=256)
    dropout: float = opt(0.0, "Share of features dropped after attention and MLP.", min=0, max=0.9)

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            raise UsageError(
                f"--width {self.width} is no multiple of twice --heads {self.heads}, but heads have pairs of features; change one"
            )


@hookimpl
def diffcli_models() -> Iterable[Spec]:
    yield Spec(
        name="mask-unet",
        target="diffcli_mdlm.network:MaskUNet",
        summary="U-Net on the revealed values and the mask, side by side.",
        config=UNetOptions,
        family="masked",
        paper="https://arxiv.org/abs/2406.07524",
    )
    yield Spec(
        name="mask-transformer",
        target="diffcli_mdlm.network:MaskTransformer",
        summary="Bidirectional transformer on tokens, without time input.",
        config=MaskTransformerOptions,
        family="masked",
        paper="https://arxiv.org/abs/2406.07524",
    )


@hookimpl
def diffcli_methods() -> Iterable[Spec]:
    yield Spec(
        name="mdlm",
        target="diffcli_mdlm.method:MDLM",
        summary="Masked diffusion: fill in hidden pixels or characters, from clean or from corrupted data.",
        config=MDLMOptions,
        family="masked",
        uses={
            "model": Use(name="mask-unet", options={"channels": 16}),
            "schedule": Use(name="loglinear"),
            "dataset": Use(name="digits", options={"size": 16}),
            # By `diffcli bench samplers` (seed 0, 40,000 draws, temperature 1), total variation of its law to the known
            # one, pair and triple, by 16 and 64 steps: unmask 0.031 and 0.061, 0.008 and 0.016; remdm 0.033 and 0.061,
            # 0.010 and 0.017; confidence 0.001 and 0.148, 0.001 and 0.143, which more steps do not mend; first-hitting,
            # exact but for chance, 0.001 and 0.001. Calls a sample of 256 tokens in 40 steps: 39.9, 40, 39, 256; in
            # 1000 steps 225, 847, 256, 256. So unmask: as exact as remdm by a quarter of its calls in many steps, and a
            # sixth of those of first-hitting in few. A temperature of 0.7 is no nearer to a known law (triple, 16 and
            # 64 steps: 0.112, 0.086); it is for networks, which err: trained digits (mdlm-digits, training seed 1, 500
            # samples in 40 steps, diffcli eval RUN --metric fd --samples 500 --sampler NAME --temperature T), fd[lenet]
            # and fd[pixels], of which 1.41 and 12.6 are floor: 1.75 and 13.4; at 1.0 1.89 and 13.9; remdm at 0.7 1.75
            # and 13.1; confidence 4.66 and 20.3.
            "sampler": Use(name="unmask", options={"temperature": 0.7}),
        },
        train={"steps": 1500, "batch_size": 64, "lr": 3e-3, "warmup": "50", "weight_decay": 0.01},
        sample=MDLMSample,
        eval=MDLMEval,
        metrics={name: f"diffcli_mdlm.measure:{name}" for name in ("nelbo", "recovery", "consistency")},
        plots={name: f"diffcli_mdlm.figures:{name}" for name in ("completion", "corruption")},
        paper="https://arxiv.org/abs/2406.07524",
    )
