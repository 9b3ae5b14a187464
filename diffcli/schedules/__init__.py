"""The built-in schedules: names and options. What they compute is in gaussian.py and masked.py."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from diffcli.plugin import Spec, hookimpl, opt


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """A table of betas, read between its entries as a continuous process."""

    timesteps: int = opt(1000, "Entries T of the table; entry i is the time (i + 1)/T.", min=1, max=1_000_000)
    beta_cap: float = opt(0.999, "Largest beta (Nichol and Dhariwal 2021).", min=1e-6, max=0.99999)
    beta_floor: float = opt(0.0, "Smallest beta; 0 is none.", min=0, max=0.1)


@dataclass(frozen=True, kw_only=True)
class LinearOptions(TableOptions):
    beta_start: float = opt(
        1e-4, "First beta of 1000; other lengths scale it by 1000/T (Ho et al. 2020).", min=1e-8, max=0.5
    )
    beta_end: float = opt(
        0.02, "Last beta of 1000; other lengths scale it by 1000/T (Ho et al. 2020).", min=1e-8, max=0.5
    )


@dataclass(frozen=True, kw_only=True)
class ScaledLinearOptions(TableOptions):
    beta_start: float = opt(
        0.00085, "First beta of 1000; other lengths scale it by 1000/T (Rombach et al. 2022).", min=1e-8, max=0.5
    )
    beta_end: float = opt(
        0.012, "Last beta of 1000; other lengths scale it by 1000/T (Rombach et al. 2022).", min=1e-8, max=0.5
    )


@dataclass(frozen=True, kw_only=True)
class CosineOptions(TableOptions):
    offset: float = opt(
        0.008, "Keeps the first betas from vanishing (Nichol and Dhariwal 2021, Eq. 17).", min=0, max=0.5
    )


@dataclass(frozen=True, kw_only=True)
class SigmoidOptions(TableOptions):
    start: float = opt(-3.0, "Where on the sigmoid t = 0 lies (Jabri et al. 2022).", min=-20, max=20)
    end: float = opt(3.0, "Where on the sigmoid t = 1 lies (Jabri et al. 2022).", min=-20, max=20)
    tau: float = opt(1.0, "Temperature: below 1 the middle falls more steeply (Jabri et al. 2022).", min=0.05, max=10)


@dataclass(frozen=True, kw_only=True)
class VPOptions:
    beta_min: float = opt(0.1, "Rate of noise at t = 0 (Song et al. 2021, App. C).", min=1e-4, max=100)
    beta_max: float = opt(20.0, "Rate of noise at t = 1 (Song et al. 2021, App. C).", min=1e-4, max=100)


@dataclass(frozen=True, kw_only=True)
class EDMOptions:
    sigma_min: float = opt(
        0.002, "Lowest noise level of a sampling grid (Karras et al. 2022, Table 1).", min=1e-6, max=1
    )
    sigma_max: float = opt(80.0, "Noise level at t = 1 (Karras et al. 2022, Table 1).", min=1, max=1e4)
    p_mean: float = opt(-1.2, "Mean of log sigma in training (Karras et al. 2022, Table 1).", min=-10, max=10)
    p_std: float = opt(
        1.2, "Standard deviation of log sigma in training (Karras et al. 2022, Table 1).", min=0.01, max=10
    )


@dataclass(frozen=True, kw_only=True)
class LogSNRCosineOptions:
    logsnr_min: float = opt(-10.0, "Log-SNR at t = 1.", min=-30, max=0)
    logsnr_max: float = opt(10.0, "Log-SNR at t = 0, where a little noise is left.", min=0, max=30)
    noise_std: float = opt(
        1.0, "Standard deviation of the noise; 1 keeps the variance of data that have it.", min=0.01, max=10
    )


@dataclass(frozen=True, kw_only=True)
class PolynomialMaskOptions:
    power: float = opt(2.0, "A token is masked with probability t^power; 1 is loglinear.", min=1, max=10)


@hookimpl
def diffcli_schedules() -> Iterable[Spec]:
    return [
        Spec(
            name="linear",
            target="diffcli.schedules.gaussian:linear",
            summary="Table of evenly growing betas.",
            config=LinearOptions,
            family="gaussian",
            paper="https://arxiv.org/abs/2006.11239",
        ),
        Spec(
            name="cosine",
            target="diffcli.schedules.gaussian:cosine",
            summary="Table whose alpha_bar falls like cos^2.",
            config=CosineOptions,
            family="gaussian",
            paper="https://arxiv.org/abs/2102.09672",
        ),
        Spec(
            name="scaled-linear",
            target="diffcli.schedules.gaussian:scaled_linear",
            summary="Table whose square roots of beta grow evenly (latent diffusion).",
            config=ScaledLinearOptions,
            family="gaussian",
            paper="https://arxiv.org/abs/2112.10752",
        ),
        Spec(
            name="sigmoid",
            target="diffcli.schedules.gaussian:sigmoid",
            summary="Table whose alpha_bar falls like a stretch of the sigmoid.",
            config=SigmoidOptions,
            family="gaussian",
            paper="https://arxiv.org/abs/2212.11972",
        ),
        Spec(
            name="vp",
            target="diffcli.schedules.gaussian:vp",
            summary="Variance-preserving SDE with linear beta, continuous in t.",
            config=VPOptions,
            family="gaussian",
            paper="https://arxiv.org/abs/2011.13456",
        ),
        Spec(
            name="edm",
            target="diffcli.schedules.gaussian:edm",
            summary="Noise is added and the data never scaled; log-normal training levels.",
            config=EDMOptions,
            family="gaussian",
            paper="https://arxiv.org/abs/2206.00364",
        ),
        Spec(
            name="rectified",
            target="diffcli.schedules.gaussian:rectified",
            summary="Straight line from data to noise.",
            family="gaussian",
            reaches_zero=True,
            paper="https://arxiv.org/abs/2209.03003",
        ),
        Spec(
            name="logsnr-cosine",
            target="diffcli.schedules.logsnr:logsnr_cosine",
            summary="Cosine between two log-SNRs, with noise of any size; it keeps a little of it at t = 0.",
            config=LogSNRCosineOptions,
            family="gaussian",
            paper="https://arxiv.org/abs/2301.11093",
        ),
        Spec(
            name="loglinear",
            target="diffcli.schedules.masked:loglinear",
            summary="Each token is masked with probability t.",
            family="masked",
            paper="https://arxiv.org/abs/2406.07524",
        ),
        Spec(
            name="cosine-mask",
            target="diffcli.schedules.masked:cosine_mask",
            summary="Each token is masked with probability sin(pi t/2).",
            family="masked",
            paper="https://arxiv.org/abs/2406.04329",
        ),
        Spec(
            name="polynomial-mask",
            target="diffcli.schedules.masked:polynomial_mask",
            summary="Each token is masked with probability t^power.",
            config=PolynomialMaskOptions,
            family="masked",
            paper="https://arxiv.org/abs/2406.04329",
        ),
    ]
