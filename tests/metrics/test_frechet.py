"""The Frechet distance: its closed forms, and what it does not see."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffcli.metrics import frechet as module
from diffcli.metrics.frechet import between, frechet, moments

D = 6


def draws(seed: int, n: int = 200, d: int = D) -> Tensor:
    """(n, d) whose mean is exactly 0 and whose covariance is exactly the identity."""
    x = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x = x - x.mean(0)
    whiten = torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (n - 1)))
    return x @ whiten.T


def mixed(seed: int) -> Tensor:
    """(d, d) of full rank, not symmetric."""
    return torch.randn(D, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + torch.eye(D)


def pair() -> tuple[Tensor, Tensor]:
    """Two sets with other means, other covariances and other sizes."""
    return draws(0) @ mixed(1).T + 0.3, draws(2, 150) @ mixed(3).T - 0.5


def rotation() -> Tensor:
    return torch.linalg.qr(mixed(4)).Q


def test_a_set_is_at_no_distance_from_itself():
    a, b = pair()
    for x in (a, b, a.float(), a[:3]):  # the last has a singular covariance
        assert frechet(x, x) < 1e-6


def test_a_set_is_at_no_distance_from_itself_where_most_of_its_covariance_is_zero():
    """Half of 784 dimensions are constant, and values reach 1e3: rounded zeros under a root would add up to 1e-3."""
    x = torch.randn(300, 784, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, 392:] = 1.0
    assert frechet(1e3 * x, 1e3 * x) < 1e-6 and frechet(x, x.flip(0)) < 1e-6


def test_factors_give_the_moments_of_numpy():
    for x in (pair()[0], pair()[0][:4]):
        mean, factor = moments(x)
        assert torch.allclose(mean, x.mean(0)) and torch.allclose(factor.T @ factor, torch.cov(x.T), rtol=1e-11)


def test_parts_of_a_set_make_the_moments_of_the_whole(monkeypatch):
    a, b = pair()
    whole, other = moments(a), moments(b)
    for rows in (3, 7, 64):
        monkeypatch.setattr(module, "ROWS", rows)
        parts = moments(a)
        assert torch.allclose(parts.factor.T @ parts.factor, whole.factor.T @ whole.factor, rtol=1e-11)
        assert between(parts, other) == pytest.approx(between(whole, other), rel=1e-11)


def test_it_is_that_of_torchmetrics_on_the_features_of_a_judge():
    """To 6 digits, on the features of 600 digits: torchmetrics takes the roots of the eigenvalues of C_a C_b."""
    theirs = pytest.importorskip("torchmetrics.image.fid")
    from diffcli.engine.assemble import Facts
    from diffcli_vision import DigitsOptions
    from diffcli_vision.digits import digits
    from diffcli_vision.lenet import Extractor

    data = digits(DigitsOptions(), "train")
    judge = Extractor(None, Facts.of(data))
    features = judge.features(data.images[:1200].float() / 8 - 1).double()
    a, b = features[:600], features[600:]
    statistics = [t for x in (a, b) for t in (x.mean(0), torch.cov(x.T))]
    assert frechet(a, b) == pytest.approx(float(theirs._compute_fid(*statistics)), rel=1e-6)


def test_of_diagonal_gaussians_it_is_the_sum_of_the_squared_differences():
    """|m_a - m_b|^2 + sum (s_a - s_b)^2, in any common rotation (Dowson and Landau 1982)."""
    s_a, s_b = torch.linspace(0.5, 3, D, dtype=torch.float64), torch.linspace(2, 0.1, D, dtype=torch.float64)
    m = torch.linspace(-1, 1, D, dtype=torch.float64)
    want = float(m.square().sum() + (s_a - s_b).square().sum())
    for turn in (torch.eye(D, dtype=torch.float64), rotation()):
        got = frechet((draws(0) * s_a + m) @ turn, (draws(1, 90) * s_b) @ turn)
        assert got == pytest.approx(want, rel=1e-9)


def test_it_is_the_textbook_formula():
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 sqrtm(C_a C_b)) with the general matrix square root (Heusel et al. 2017, Eq. 6)."""
    linalg = pytest.importorskip("scipy.linalg")
    a, b = pair()
    (mean_a, cov_a), (mean_b, cov_b) = ((x.mean(0), torch.cov(x.T)) for x in (a, b))
    cross = linalg.sqrtm((cov_a @ cov_b).numpy())
    want = float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace()) - 2 * cross.trace().real
    assert frechet(a, b) == pytest.approx(want, rel=1e-6)


def test_it_is_symmetric():
    a, b = pair()
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-9)


def test_it_does_not_see_a_rotation_of_both_or_the_order_of_rows():
    a, b = pair()
    want, turn = frechet(a, b), rotation()
    assert frechet(a @ turn, b @ turn) == pytest.approx(want, rel=1e-9)
    assert frechet(a.flip(0), b) == pytest.approx(want, rel=1e-9)
    assert abs(frechet(a @ turn, b) - want) > 1e-2 * want


def test_a_shift_by_d_adds_its_square():
    a, _ = pair()
    d = torch.linspace(-2, 1, D, dtype=torch.float64)
    for size in (1e-2, 1.0, 10.0):
        assert frechet(a, a + size * d) == pytest.approx(size**2 * float(d.square().sum()), rel=1e-6)


def test_a_stretch_by_k_about_the_mean_costs_its_own():
    """C -> k^2 C: (k - 1)^2 tr C."""
    a, _ = pair()
    a = a - a.mean(0)
    for k in (0.0, 0.5, 3.0):
        want = (k - 1) ** 2 * float(torch.cov(a.T).trace())
        assert frechet(a, k * a) == pytest.approx(want, rel=1e-9)


def test_fewer_rows_than_features_is_finite_and_not_negative():
    a, b = draws(0)[:3], draws(1)[:4]
    assert 0 < frechet(a, b) < math.inf
    assert frechet(torch.zeros(4, D), torch.ones(4, D)) == pytest.approx(D)
