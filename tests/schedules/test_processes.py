"""Laws of every schedule that is installed here, by its spec and default options."""

import math

import pytest
import torch

from diffcli.core.process import GaussianProcess, MaskedProcess
from diffcli.core.space import Tokens
from diffcli.schedules import EDMOptions, VPOptions, diffcli_schedules
from diffcli.schedules.gaussian import EDM, VP, edm, vp

SPECS = {spec.name: spec for spec in diffcli_schedules()}
GAUSSIAN = {name: spec.load()(spec.config(), None) for name, spec in SPECS.items() if spec.family == "gaussian"}
LINE = torch.linspace(0, 1, 1001, dtype=torch.float64)


@pytest.fixture(params=GAUSSIAN)
def process(request) -> GaussianProcess:
    return GAUSSIAN[request.param]


def test_it_starts_clean(process):
    zero = torch.zeros((), dtype=torch.float64)
    assert process.alpha(zero) == 1 and process.sigma(zero) == 0


def test_log_snr_strictly_falls(process):
    ratio = process.ratio(LINE)
    assert (ratio.log().diff()[1:] > 0).all() and ratio[0] == 0


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


def test_shape_and_dtype_are_kept(process):
    for t in (torch.tensor([0.1, 0.7]), LINE[5], LINE[5].float()):
        expected = t.dtype if t.ndim else torch.float64
        for value in (process.alpha(t), process.sigma(t)):
            assert value.shape == t.shape and value.dtype in (t.dtype, expected)


def test_levels_of_a_grid_lie_within_reach(process):
    one = torch.ones((), dtype=torch.float64)
    assert 0 < process.ratio_min < process.ratio_max <= float(process.ratio(one)) * (1 + 1e-12)


def test_only_rectified_reaches_zero():
    one = torch.ones((), dtype=torch.float64)
    for name, process in GAUSSIAN.items():
        assert (process.alpha(one) == 0) == SPECS[name].reaches_zero == (name == "rectified")


def test_quantile_stays_in_reach(process):
    u = torch.tensor([1e-12, 0.01, 0.5, 0.99, 1 - 1e-12], dtype=torch.float64)
    t = process.quantile(u)
    assert (t > 0).all() and (t <= 1).all() and (t.diff() >= 0).all()


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


def test_loglinear_masks_the_vocabulary_of_its_space():
    spec = SPECS["loglinear"]
    process = spec.load()(spec.config(), Tokens((1, 2, 2), 0, vocab=7))
    assert isinstance(process, MaskedProcess) and process.mask_id == 7 and spec.family == "masked"
