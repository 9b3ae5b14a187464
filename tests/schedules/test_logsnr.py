"""The cosine between two log-SNRs, with its floor."""

from __future__ import annotations

import math

import pytest
import torch

from diffcli.errors import UsageError
from diffcli.schedules import LogSNRCosineOptions
from diffcli.schedules.logsnr import LogSNRCosine, logsnr_cosine

LINE = torch.linspace(0, 1, 1001, dtype=torch.float64)
TABLE = {  # of the mDiffAE specification: t -> alpha, sigma
    0.0: (0.999977, 0.003760),
    0.1: (0.986831, 0.090260),
    0.25: (0.922585, 0.215273),
    0.5: (0.707107, 0.394566),
    0.75: (0.385794, 0.514802),
    1.0: (0.006738, 0.557987),
}


def test_the_log_snr_falls_from_ten_to_minus_ten():
    logsnr = LogSNRCosine().logsnr(LINE)
    assert [float(v) for v in logsnr[[0, 500, 1000]]] == pytest.approx([10, 0, -10], abs=1e-6)
    assert bool((logsnr.diff() < 0).all())


def test_the_published_coefficients():
    """To 1e-5, and 1e-6 where that many digits are printed; alpha^2 + (sigma/0.558)^2 = 1."""
    process = LogSNRCosine(noise_std=0.558)
    for t, expected in TABLE.items():
        time = torch.tensor(t, dtype=torch.float64)
        assert (float(process.alpha(time)), float(process.sigma(time))) == pytest.approx(expected, abs=1e-6)
    power = process.alpha(LINE) ** 2 + (process.sigma(LINE) / 0.558) ** 2
    assert torch.allclose(power, torch.ones_like(LINE), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [(-10, 10, 1), (-10, 10, 0.558), (-4, 12, 3), (-30, 30, 0.1), (-0.5, 0, 1)])
def test_time_inverts_it_and_the_floor_is_what_is_left_at_zero(options):
    low, high, std = options
    process = logsnr_cosine(LogSNRCosineOptions(logsnr_min=low, logsnr_max=high, noise_std=std), None)
    assert isinstance(process, LogSNRCosine)
    assert torch.allclose(process.time(process.ratio(LINE)), LINE, rtol=0, atol=1e-6)
    assert float(process.sigma(LINE[0])) == pytest.approx(process.floor, rel=1e-9)
    assert process.floor == pytest.approx(std / math.sqrt(1 + math.exp(high)), rel=1e-9)
    assert process.ratio_min < process.ratio_max


def test_ends_in_the_wrong_order_are_refused():
    with pytest.raises(UsageError, match=r"rises from 0 to 0; logsnr_min must be the smaller"):
        logsnr_cosine(LogSNRCosineOptions(logsnr_min=0, logsnr_max=0), None)
