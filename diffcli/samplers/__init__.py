"""The built-in samplers: names and options. What they compute is in the files beside this one, a family each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from diffcli.plugin import Spec, hookimpl, opt


@dataclass(frozen=True, kw_only=True)
class DDIMOptions:
    eta: float = opt(0.0, "Share of DDPM's noise: 0 is deterministic, 1 is DDPM.", min=0, max=1)


@dataclass(frozen=True, kw_only=True)
class AncestralOptions:
    variance: Literal["small", "large", "learned"] = opt(
        "small", "Of the noise of a step: beta~, beta, or the model's own point between."
    )


@dataclass(frozen=True, kw_only=True)
class DPMpp2MSDEOptions:
    eta: float = opt(1.0, "Strength of the noise: 0 is dpmpp-2m, 1 is the SDE of the paper.", min=0, max=10)


@dataclass(frozen=True, kw_only=True)
class ChurnOptions:
    churn: float = opt(
        40.0, "Noise put back over the whole walk; 0 is Heun (Karras et al. 2022, Table 5).", min=0, max=1e4
    )
    s_min: float = opt(0.05, "Lowest sigma/alpha at which noise is put back (Karras et al. 2022, Table 5).", min=0)
    s_max: float = opt(50.0, "Highest sigma/alpha at which noise is put back (Karras et al. 2022, Table 5).", min=0)
    s_noise: float = opt(1.003, "Standard deviation of that noise (Karras et al. 2022, Table 5).", min=0.5, max=2)


@dataclass(frozen=True, kw_only=True)
class MaskedSamplerOptions:
    temperature: float = opt(
        1.0,
        "Divides log-probabilities; 1 is the law, below it likelier values are drawn more often.",
        min=1e-3,
        max=1e3,
    )
    sampling_dtype: Literal["float64", "float32"] = opt(
        "float64", "Precision of the draws; float32 cuts off the tail of the law, and is there to compare with."
    )


@dataclass(frozen=True, kw_only=True)
class UnmaskOptions(MaskedSamplerOptions):
    cache: bool = opt(True, "Evaluate a sample only in steps that reveal any of it; the samples are the same.")


@dataclass(frozen=True, kw_only=True)
class FirstHittingOptions(MaskedSamplerOptions):
    """None of its own: it makes a call for each masked token, whatever the steps."""


@dataclass(frozen=True, kw_only=True)
class ConfidenceOptions(MaskedSamplerOptions):
    choice_temperature: float = opt(
        1.0, "Scale of the noise on confidence at the first step; 0 always keeps the surest.", min=0, max=1e3
    )


@dataclass(frozen=True, kw_only=True)
class ReMDMOptions(MaskedSamplerOptions):
    strategy: Literal["cap", "rescale", "conf"] = opt(
        "cap", "How likely a token is masked again: at most eta, eta times what is possible, or more if it was unsure."
    )
    eta: float = opt(0.02, "Strength of masking again; 0 is unmask (Wang et al. 2025).", min=0, max=1)
    t_on: float = opt(1.0, "Time below which tokens are masked again.", min=0, max=1)
    t_off: float = opt(0.0, "Time above which tokens are masked again.", min=0, max=1)


@hookimpl
def diffcli_samplers() -> Iterable[Spec]:
    return [
        Spec(
            name="ddim",
            target="diffcli.samplers.ddim:ddim",
            summary="Order 1, one call a step; deterministic, or with a share of DDPM's noise.",
            config=DDIMOptions,
            family="gaussian",
            paper="https://arxiv.org/abs/2010.02502",
        ),
        Spec(
            name="ancestral",
            target="diffcli.samplers.ddim:ancestral",
            summary="DDPM's random walk, one call for each entry of the table; small, large or learned variance.",
            config=AncestralOptions,
            family="gaussian",
            paper="https://arxiv.org/abs/2006.11239",
        ),
        Spec(
            name="euler",
            target="diffcli.samplers.runge_kutta:euler",
            summary="Order 1, one call a step; the same as ddim without noise.",
            family="gaussian",
            paper="https://arxiv.org/abs/2209.03003",
        ),
        Spec(
            name="midpoint",
            target="diffcli.samplers.runge_kutta:midpoint",
            summary="Order 2, two calls a step, the second in the middle.",
            family="gaussian",
            paper="https://arxiv.org/abs/2210.02747",
        ),
        Spec(
            name="heun",
            target="diffcli.samplers.runge_kutta:heun",
            summary="Order 2, two calls a step, the second at its end; one on the last.",
            family="gaussian",
            paper="https://arxiv.org/abs/2206.00364",
        ),
        Spec(
            name="ralston",
            target="diffcli.samplers.runge_kutta:ralston",
            summary="Order 2, two calls a step, the second at two thirds: the least error bound.",
            family="gaussian",
            paper="https://doi.org/10.1090/S0025-5718-1962-0150954-0",
        ),
        Spec(
            name="rk4",
            target="diffcli.samplers.runge_kutta:rk4",
            summary="Order 4, four calls a step; for references and many calls.",
            family="gaussian",
        ),
        Spec(
            name="ab2",
            target="diffcli.samplers.multistep:ab2",
            summary="Order 2, one call a step: Adams-Bashforth in the straight frame.",
            family="gaussian",
            paper="https://arxiv.org/abs/2204.13902",
        ),
        Spec(
            name="dpmpp-2m",
            target="diffcli.samplers.multistep:dpmpp_2m",
            summary="Order 2, one call a step: DPM-Solver++(2M).",
            family="gaussian",
            paper="https://arxiv.org/abs/2211.01095",
        ),
        Spec(
            name="dpmpp-3m",
            target="diffcli.samplers.multistep:dpmpp_3m",
            summary="Order 2 and often better, one call a step: a parabola through three predictions.",
            family="gaussian",
            paper="https://arxiv.org/abs/2211.01095",
        ),
        Spec(
            name="dpmpp-2m-sde",
            target="diffcli.samplers.multistep:dpmpp_2m_sde",
            summary="Random walk, one call a step: SDE-DPM-Solver++(2M).",
            config=DPMpp2MSDEOptions,
            family="gaussian",
            paper="https://arxiv.org/abs/2211.01095",
        ),
        Spec(
            name="unipc",
            target="diffcli.samplers.unipc:unipc",
            summary="Order 2 and often better, one call a step: each prediction corrects the step before.",
            family="gaussian",
            paper="https://arxiv.org/abs/2302.04867",
        ),
        Spec(
            name="churn",
            target="diffcli.samplers.churn:churn",
            summary="Random walk, two calls a step: Heun with noise put back (Karras et al. 2022).",
            config=ChurnOptions,
            family="gaussian",
            paper="https://arxiv.org/abs/2206.00364",
        ),
        Spec(
            name="renoise",
            target="diffcli.samplers.renoise:renoise",
            summary="Random walk, one call a step: fresh noise on the predicted image at each level, for few levels.",
            family="gaussian",
            paper="https://arxiv.org/abs/2503.24322",
        ),
        Spec(
            name="unmask",
            target="diffcli.samplers.masked:unmask",
            summary="Ancestral: tokens are revealed at random and drawn; calls only where a step reveals any.",
            config=UnmaskOptions,
            family="masked",
            paper="https://arxiv.org/abs/2406.07524",
        ),
        Spec(
            name="first-hitting",
            target="diffcli.samplers.masked:first_hitting",
            summary="Exact: one token at a time in random order, a call each; steps say only when it is looked at.",
            config=FirstHittingOptions,
            family="masked",
            paper="https://arxiv.org/abs/2409.02908",
        ),
        Spec(
            name="confidence",
            target="diffcli.samplers.confidence:confidence",
            summary="In few steps: the tokens that the network is surest of are revealed first (MaskGIT).",
            config=ConfidenceOptions,
            family="masked",
            paper="https://arxiv.org/abs/2202.04200",
        ),
        Spec(
            name="remdm",
            target="diffcli.samplers.remdm:remdm",
            summary="Ancestral, but revealed tokens may be masked again and drawn anew.",
            config=ReMDMOptions,
            family="masked",
            paper="https://arxiv.org/abs/2503.00307",
        ),
    ]
