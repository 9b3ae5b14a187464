"""PSNR, SSIM and principal components, against formulas written out by hand and pictures whose answer is known."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffcli import recipe as recipes
from diffcli.core.method import Batch
from diffcli.core.space import Pixels
from diffcli.engine.assemble import open_data
from diffcli.engine.reconstructions import pairs
from diffcli.metrics.reconstruction import Components, psnr, ssim, window


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    """Uniform in [0, 1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_psnr_of_a_known_error():
    """An error of 0.1 everywhere is 20 dB, of 0.01 40 dB, each image by itself; equal images are at the bound of 100 dB."""
    x = torch.full((3, 1, 4, 5), 0.5, dtype=torch.float64)
    off = torch.tensor([0.1, 0.01, 0.0], dtype=torch.float64)[:, None, None, None]
    assert psnr(x, x + off).tolist() == pytest.approx([20.0, 40.0, 100.0], abs=1e-9)


def test_mean_psnr_is_not_the_psnr_of_the_mean():
    """-log is convex: the mean over images is above that of the mean error, unless all errors are equal."""
    x, y = pictures(20, 1, 8, 8), pictures(20, 1, 8, 8, seed=1) * torch.linspace(0, 1, 20)[:, None, None, None]
    assert float(psnr(x, y).mean()) > -10 * math.log10(float((x - y).double().square().mean()))


def test_what_lies_outside_of_an_image_is_clamped_before_it_is_measured():
    """White that came back as 3 is white."""
    given, made = torch.ones(2, 1, 2, 2), torch.tensor([3.0, 0.0])[:, None, None, None].expand(2, 1, 2, 2)
    bench = SimpleNamespace(samples=SimpleNamespace(given=Batch(torch.arange(2), given), x=made))
    x, y = pairs(bench)
    assert torch.equal(x, torch.ones(2, 1, 2, 2)) and y[:, 0, 0, 0].tolist() == [1.0, 0.5]


def by_hand(x: np.ndarray, y: np.ndarray, side: int) -> float:
    """SSIM of one channel as Wang et al. 2004 write it, place by place: weights w, mu, sigma^2, sigma_xy, Eq. 13 and 17."""
    half, values = side // 2, []
    w = np.array(
        [[math.exp(-(i * i + j * j) / (2 * 1.5**2)) for j in range(-half, half + 1)] for i in range(-half, half + 1)]
    )
    w /= w.sum()
    c1, c2 = (0.01 * 1.0) ** 2, (0.03 * 1.0) ** 2
    for top in range(x.shape[0] - side + 1):
        for left in range(x.shape[1] - side + 1):
            a, b = (p[top : top + side, left : left + side] for p in (x, y))
            mu_a, mu_b = (w * a).sum(), (w * b).sum()
            var_a, var_b = (w * (a - mu_a) ** 2).sum(), (w * (b - mu_b) ** 2).sum()
            cov = (w * (a - mu_a) * (b - mu_b)).sum()
            values.append((2 * mu_a * mu_b + c1) * (2 * cov + c2) / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize(("shape", "side"), [((1, 16, 13), 11), ((3, 12, 12), 11), ((1, 8, 8), 7), ((1, 5, 9), 5)])
def test_ssim_is_the_formula(shape, side):
    """To 1e-10: both are float64, and the variances by moments cancel at most 1/c2 = 1e3 of 1e-16."""
    x, y = pictures(2, *shape), 0.3 * pictures(2, *shape, seed=1) + 0.5 * pictures(2, *shape)
    assert window(*shape[1:]) == side
    found = ssim(x, y)
    for k in range(2):
        a, b = x[k].double().numpy(), y[k].double().numpy()
        assert float(found[k]) == pytest.approx(
            np.mean([by_hand(p, q, side) for p, q in zip(a, b, strict=True)]), abs=1e-10
        )


def test_ssim_of_an_image_with_itself_is_one_and_with_its_negative_below_zero():
    x = pictures(4, 1, 16, 16)
    assert torch.allclose(ssim(x, x), torch.ones(4, dtype=torch.float64), atol=1e-12)
    assert bool((ssim(x, 1 - x) < 0).all())
    assert torch.allclose(ssim(x, 1 - x), ssim(1 - x, x), atol=1e-12)


def test_components_reconstruct_what_lies_in_their_plane():
    """Images of three numbers come back from three components exactly, and all components lose nothing; two lose something."""
    basis, numbers = pictures(3, 20), pictures(50, 3, seed=1)
    x = (numbers.double() @ basis.double()).view(50, 1, 4, 5)
    for count, most in ((3, 1e-10), (20, 1e-10), (99, 1e-10)):
        assert float((Components(x, count).reconstruct(x) - x).abs().max()) < most
    assert float((Components(x, 2).reconstruct(x) - x).abs().max()) > 1e-3


def test_no_plane_of_as_many_numbers_is_nearer():
    """The error of k components on what they were fitted on is the sum of the other eigenvalues (Eckart and Young 1936)."""
    x = pictures(100, 1, 4, 4).double()
    flat = x.flatten(1) - x.flatten(1).mean(0)
    values = torch.linalg.svdvals(flat).square()
    error = (Components(x, 5).reconstruct(x) - x).square().sum()
    assert float(error) == pytest.approx(float(values[5:].sum()), rel=1e-9)


@pytest.mark.slow
def test_floor_of_mnist():
    """32 components fitted on 20,000 training images, 10,000 test images: 18.08 dB on all 60,000, within 0.1."""
    recipe = recipes.resolve({"method": {"name": "vae"}, "dataset": {"name": "mnist"}})
    train, test = (open_data(recipe, split) for split in ("train", "test"))
    space = Pixels(train.shape, 10)

    def first(data: object, n: int) -> torch.Tensor:
        items = torch.arange(n)
        return (data.batch(items, items, space).x + 1) / 2

    x = first(test, 10_000)
    assert float(psnr(x, Components(first(train, 20_000), 32).reconstruct(x)).mean()) == pytest.approx(18.08, abs=0.1)
