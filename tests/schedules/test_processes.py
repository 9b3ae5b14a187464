"""What the built-in Gaussian processes are; the laws of every schedule are the kit's."""

import math

import pytest
import torch

from diffcli.core.process import GaussianProcess
from diffcli.schedules import EDMOptions, VPOptions, diffcli_schedules
from diffcli.schedules.gaussian import EDM, VP, edm, vp

SPECS = {spec.name: spec for spec in diffcli_schedules()}
GAUSSIAN = {name: spec.load()(spec.config(), None) for name, spec in SPECS.items() if spec.family == "gaussian"}
LINE = torch.linspace(0, 1, 1001, dtype=torch.float64)


@pytest.fixture(params=GAUSSIAN)
def process(request) -> GaussianProcess:
    return GAUSSIAN[request.param]


def test_time_inverts_the_ratio(process):
    assert torch.allclose(process.time(process.ratio(LINE[1:-1])), LINE[1:-1], rtol=1e-9, atol=1e-12)
    bisected = GaussianProcess.time(process, process.ratio(LINE[1:-1]))
    assert torch.allclose(bisected, LINE[1:-1], rtol=1e-9, atol=1e-10)


def test_variance_is_preserved_where_that_is_said(process):
    if isinstance(process, EDM) or process is GAUSSIAN["rectified"]:
        return
    assert torch.allclose(
        process.alpha(LINE) ** 2 + process.sigma(LINE) ** 2, torch.ones_like(LINE), rtol=0, atol=1e-12
    )


def test_edm_trains_on_log_normal_levels():
    process = GAUSSIAN["edm"]
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    log_sigma = process.sigma(process.quantile(u)).log()
    assert abs(log_sigma.mean() + 1.2) < 1e-3 and abs(log_sigma.std() - 1.2) < 1e-3


def test_edm_reads_sigma_off_the_clock():
    process = edm(EDMOptions(sigma_max=40.0), None)
    assert torch.equal(process.sigma(LINE), 40 * LINE) and process.ratio_max == 40 and process.spacing == "karras"
    assert not process.rectified


def test_vp_is_the_integral_of_its_beta():
    process, fine = (
        vp(VPOptions(beta_min=0.2, beta_max=15.0), None),
        torch.linspace(0, 0.7, 20_001, dtype=torch.float64),
    )
    beta = 0.2 + fine * 14.8
    assert abs(-2 * math.log(process.alpha(fine[-1])) - torch.trapezoid(beta, fine)) < 1e-8


def test_vp_with_one_rate_still_knows_its_time():
    process, t = VP(5.0, 5.0), LINE[1:]
    assert torch.allclose(process.time(process.ratio(t)), t, atol=1e-12)
