"""How latents become images: in one step or more, to x_0 or to the floor of the schedule, guided or not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from diffcli.core.denoiser import Counted, Final, Guided
from diffcli.core.exact import Mixture
from diffcli.core.method import Batch
from diffcli.errors import UsageError
from diffcli.registry import registry
from diffcli.samplers.grid import grid
from diffcli.schedules.logsnr import LogSNRCosine
from diffcli.testing.known import Image
from diffcli_mdiffae import MDiffAESample
from masked_autoencoders import SHAPE, SKIP, TINY, batch, mdiffae, normal, rows

ONE = torch.ones((), dtype=torch.float64)
PROCESS = LogSNRCosine(noise_std=0.558)


def sampler(name: str) -> Any:
    spec = registry().get("sampler", name)
    return spec.load()(spec.config())


def end(name: str, denoiser: Any, x: Tensor, steps: int, cond: dict[str, Tensor] | None = None) -> Tensor:
    times = grid(denoiser.process, steps)
    with torch.no_grad():
        *_, (_, x) = sampler(name).trajectory(denoiser, x, times, cond=cond or {}, rng=rows(len(x)))
    return x


def walked(method: Any, given: Batch, name: str, steps: int, wrap: Any, shape: tuple[int, ...] = SHAPE) -> list[Tensor]:
    """x from the start to the end, as the engine walks."""
    times = grid(method.denoiser.process, steps)
    with torch.no_grad():
        path = method.trajectory(given, shape, sampler(name), times, wrap, rows(len(given.index)))
        return [x for _, x in path]


@pytest.mark.parametrize("options", [TINY, SKIP])
def test_one_step_ends_at_what_the_decoder_says_or_at_the_floor(options):
    """final x0: the answer itself. final floor: 0.999932 x_0 + 0.006738 x_T, to 1e-4. One step of dpmpp-2m is one of ddim."""
    method, x = mdiffae(options=options), normal(2, *SHAPE)
    start, clean = walked(method, batch(x), "ddim", 1, Final)
    with torch.no_grad():
        x_0 = method.denoiser.net(start, torch.full((2,), 1000.0), method.cond(batch(x), rows(2)))
    assert torch.equal(clean, x_0)
    _, floor = walked(method, batch(x), "ddim", 1, lambda denoiser: denoiser)
    assert torch.allclose(floor, 0.999932 * x_0 + 0.006738 * start, atol=1e-4)
    for wrap, found in ((Final, clean), (lambda denoiser: denoiser, floor)):
        assert torch.allclose(walked(method, batch(x), "dpmpp-2m", 1, wrap)[-1], found, atol=1e-5)


def test_decode_is_one_step_of_ddim_from_noise_of_its_own():
    method, z = mdiffae(), normal(2, 8, 4, 6)
    with torch.no_grad():
        n = rows(2).normal("decode", SHAPE)
        cond = method.cond(Batch(torch.arange(2), z=z), rows(2))
        want = end("ddim", Final(method.denoiser), PROCESS.sigma(ONE) * n, 1, cond)
        assert torch.equal(method.decode(z, rows(2)), want)


@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m"])
@pytest.mark.parametrize("steps", [1, 4, 10])
def test_a_decoder_that_knows_the_image_leaves_the_floor_of_the_noise(name, steps):
    """Of what is left with final floor the deviation is sigma(0) = 0.00376; with final x0 nothing is."""
    image = normal(*SHAPE)
    x = PROCESS.sigma(ONE) * normal(4, *SHAPE, seed=1)
    known = Image(PROCESS, image)
    assert float((end(name, Final(known), x, steps) - image).abs().max()) < 1e-5
    left = end(name, known, x, steps) - PROCESS.alpha(0 * ONE) * image
    assert 0.0035 < float(left.std()) < 0.004


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ddim", (0.220, 0.0592, 0.0300, 0.0151)), ("dpmpp-2m", (0.275, 0.0290, 0.0064, 0.0013))],
)
def test_errors_on_gaussian_data(name, expected):
    """Data of deviation 0.5 and the exact decoder, to the floor, by 5, 20, 40 and 80 steps: 2 %, and the last digit printed."""
    exact = Mixture(PROCESS, torch.ones(1), torch.zeros(1, 1), torch.tensor([0.5]))
    spread = [(PROCESS.alpha(t) ** 2 / 4 + PROCESS.sigma(t) ** 2).sqrt() for t in (0 * ONE, ONE)]
    for steps, error in zip((5, 20, 40, 80), expected, strict=True):
        found = end(name, exact, torch.ones(1, 1, dtype=torch.float64), steps)
        assert abs(float(found * spread[1] / spread[0]) - 1) == pytest.approx(error, rel=0.02, abs=5e-5)


@pytest.mark.parametrize("options", [TINY, SKIP])
def test_guidance_is_away_from_the_weaker_decoder(options):
    """w = 1 is none, at one call; w = 0 the weaker one alone; else weak + w (full - weak) at the price of two."""
    method, x = mdiffae(options=options), normal(2, *SHAPE)
    pictures: dict[float, Tensor] = {}
    for w in (1.0, 0.0, 1.05):
        counted: list[Counted] = []

        def wrap(denoiser: Any, w: float = w, counted: list[Counted] = counted) -> Any:
            counted.append(Counted(denoiser))
            return Final(Guided(counted[0], w, method.weaken) if w != 1 else counted[0])

        pictures[w] = walked(method, batch(x), "ddim", 1, wrap)[-1]
        assert counted[0].rows == (4 if w == 1.05 else 2)
    assert torch.equal(pictures[1.0], walked(method, batch(x), "ddim", 1, Final)[-1])
    with torch.no_grad():
        start = method.begin(SHAPE, batch(x), rows(2))
        weak = method.denoiser(start, ONE, method.weaken(method.cond(batch(x), rows(2)))).x_0
    assert torch.equal(pictures[0.0], weak) and not torch.allclose(weak, pictures[1.0], atol=1e-3)
    assert torch.allclose(pictures[1.05], weak + 1.05 * (pictures[1.0] - weak), atol=1e-5)


def test_the_weaker_decoder_is_chosen():
    """token: three in four tokens hidden, alike for all images and at any size; path: the middle left out."""
    flat, skip, x = mdiffae(), mdiffae(options=SKIP), normal(2, *SHAPE)
    with torch.no_grad():
        cond = skip.cond(batch(x), rows(2))
    for asked, hidden, dropped in ((None, False, True), ("path", False, True), ("token", True, False)):
        weak = skip.weakening(MDiffAESample(pdg=asked))(cond)
        assert bool((~weak["keep"]).any()) == hidden and bool(weak["drop"].all()) == dropped
    weak = flat.weakening(MDiffAESample())(cond)["keep"]
    assert torch.equal(weak[0], weak[1]) and int(weak[0].sum()) == 6
    assert torch.equal(flat.hide(cond)["keep"], weak)
    with pytest.raises(UsageError, match="--pdg path leaves the middle blocks out, but this decoder is flat"):
        flat.weakening(MDiffAESample(pdg="path"))


def test_latents_of_any_size_are_walked_without_an_image():
    """The same image comes of latents as of the image they are of, where noise is the same; other sizes have their own."""
    method, x = mdiffae(), normal(2, *SHAPE)
    with torch.no_grad():
        z = method.encode(x)
    of_image, of_latents = (walked(method, b, "ddim", 2, Final)[-1] for b in (batch(x), Batch(torch.arange(2), z=z)))
    assert torch.equal(of_image, of_latents)
    assert walked(method, Batch(torch.arange(2), z=z[..., 1:]), "ddim", 1, Final)[-1].shape == (2, 3, 16, 20)
    assert walked(method, batch(normal(2, 3, 32, 8)), "ddim", 1, Final)[-1].shape == (2, 3, 32, 8)
    assert method.default_steps(sampler("ddim")) == method.default_steps(sampler("dpmpp-2m")) == 1
