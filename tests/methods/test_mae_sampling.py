"""mae-noprop: walks along its decoders complete images, and what is seen of them stays."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from completions import SHAPE, batch, images, mae, rows
from diffcli.core.denoiser import Prediction
from diffcli.core.method import Batch
from diffcli.core.process import expand
from diffcli.errors import UsageError
from diffcli.registry import registry
from diffcli.samplers.grid import grid
from diffcli.schedules.gaussian import EDM
from diffcli_mae_noprop import MAEEval, MAESample

OWN = ["renoise", "heun", "euler", "ancestral"]  # those that the specification names
SAMPLERS = [*OWN, "ddim", "ab2", "dpmpp-2m", "unipc"]


class Held:
    """Held-out images."""

    def __init__(self, x: torch.Tensor):
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, items, index, space):
        return Batch(index, self.x[items])


def sampler(name: str):
    spec = registry().get("sampler", name)
    return spec.load()(spec.config())


@torch.no_grad()
def walked(method, given: Batch, name: str, *, oracle=None, seed: int = 0):
    """The frames of a walk; oracle: asked in place of the denoiser."""
    times = method.times(method.default_steps(None), "", grid)
    wrap = (lambda denoiser: oracle) if oracle else (lambda denoiser: denoiser)
    return list(method.trajectory(given, SHAPE, sampler(name), times, wrap, rows(len(given.index), seed)))


def wished(method, x, **options) -> Batch:
    return method.wish(Batch(torch.arange(len(x))), MAESample(**options), lambda: Held(x))


@pytest.mark.parametrize(("levels", "decoders"), [("karras", 3), ("equiprob", 3), ("karras", 1)])
@pytest.mark.parametrize("name", SAMPLERS)
def test_what_is_seen_ends_as_it_was_given(name, levels, decoders):
    """To the bit; hidden patches are made up; T + 1 frames, from 80 n at t = 1 down to 0."""
    method, x = mae(levels=levels, decoders=decoders).eval(), images()
    given = wished(method, x)
    frames = walked(method, given, name)
    assert len(frames) == decoders + 1 and [float(t) for t, _ in frames] == method.times(decoders, "", grid).tolist()
    end, hidden = frames[-1][1], ~given.known
    assert torch.equal(end[given.known], x[given.known])
    assert torch.equal(frames[0][1], 80 * rows().normal("prior", SHAPE))
    assert not (end == frames[0][1]).any() and (end[hidden] != x[hidden]).all()
    assert torch.isfinite(end).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_denoiser_itself_says_what_is_seen(name):
    """Without the last correction of the method: to the bit where x_0 is the end, else to the rounding of x of size 80."""
    method, x = mae().eval(), images()
    given = wished(method, x)
    with torch.no_grad():
        cond = method.cond(given, rows())
        start = method.begin(SHAPE, given, rows())
        times = method.times(3, "", grid)
        *_, (_, end) = sampler(name).trajectory(method.denoiser, start, times, cond=cond, rng=rows())
    off = (end - x)[given.known].abs().max()
    assert off == 0 if name in ("renoise", "ancestral", "ddim") else off <= 1e-5


class Oracle:
    """Knows the image."""

    def __init__(self, x: torch.Tensor, process):
        self.x, self.process = x, process

    def __call__(self, x_t, t, cond):
        return Prediction(self.x, (x_t - self.x) / expand(self.process.sigma(t), x_t))


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_oracle_leads_to_the_image(name):
    """x_0 to 1e-4: float32 of numbers up to 400."""
    method, x = mae(decoders=4).eval(), images()
    frames = walked(method, wished(method, x), name, oracle=Oracle(x, EDM()))
    assert (frames[-1][1] - x).abs().max() < 1e-4


def test_heun_asks_the_next_decoder_at_the_end_of_a_step():
    """The decoder that was trained there; the step to 0 is Euler's."""
    method, x, asked = mae(decoders=3).eval(), images(2), []
    net = method.denoiser.net
    for i, each in enumerate(net.decoders):
        each.register_forward_hook(lambda *_, i=i: asked.append(i))
    walked(method, wished(method, x), "heun")
    assert asked == [0, 1, 1, 2, 2]


class Normal:
    """The exact denoiser of N(0, sd^2): E[x_0 | x] = x sd^2/(sigma^2 + sd^2)."""

    def __init__(self, process, sd: float = 0.5):
        self.process, self.sd = process, sd

    def __call__(self, x_t, t, cond):
        sigma = expand(self.process.sigma(t), x_t)
        x_0 = x_t * self.sd**2 / (sigma**2 + self.sd**2)
        return Prediction(x_0, (x_t - x_0) / sigma)


def test_heun_on_karras_levels_converges_quadratically():
    """From 80 the exact path of N(0, 1/4) ends on 80 sd/sqrt(80^2 + sd^2); Karras et al. 2022, Algorithm 1 without noise."""
    exact, found = 80 * 0.5 / (80**2 + 0.25) ** 0.5, {}
    for steps in (16, 32, 64, 128):
        x = torch.full((1, 1), 80.0, dtype=torch.float64)
        path = sampler("heun").trajectory(Normal(EDM()), x, grid(EDM(), steps, "karras"), cond={}, rng=rows(1))
        *_, (_, end) = path
        found[steps] = abs(float(end) - exact) / exact
    assert found[64] <= 0.01 and 3 <= found[32] / found[64] <= 6
    measured = {16: 0.072, 32: 0.0157, 64: 0.0037, 128: 0.0009}
    assert all(abs(found[n] / value - 1) < 0.06 for n, value in measured.items())  # they are stated to two digits


def test_a_mask_goes_by_seed_and_number():
    """Not by the batch; as many of each image."""
    method, x = mae().eval(), images(6)
    whole = wished(method, x).known
    alone = method.wish(Batch(torch.tensor([4])), MAESample(), lambda: Held(x))
    assert torch.equal(alone.known, whole[4:5]) and torch.equal(alone.x, x[4:5])
    assert not torch.equal(wished(method, x, seed=1).known, whole)
    assert (whole.flatten(1).sum(1) == 4 * 16 * 3).all()
    assert (wished(method, x, mask_ratio=0.5).known.flatten(1).sum(1) == 8 * 16 * 3).all()
    assert torch.equal(
        method.cond(wished(method, x), rows(6, seed=9))["visible"].sort(1).values,
        method.mask(rows(6), 4).sort(1).values,
    )
    same = method.wish(Batch(torch.arange(6)), MAEEval(), lambda: Held(x))  # measured as it is sampled
    assert torch.equal(same.known, whole)


def test_images_are_taken_in_turn():
    method, x = mae().eval(), images(3)
    given = method.wish(Batch(torch.arange(7)), MAESample(), lambda: Held(x))
    assert torch.equal(given.x, x[torch.arange(7) % 3])


def test_from_nothing_only_what_was_trained_so():
    """mask_ratio 1 hides all: refused of a model that has always seen something, and drawn of one that has not."""
    x = images()
    with pytest.raises(UsageError, match=r"--mask-ratio 1 hides all patches.*--mask-dropout"):
        wished(mae().eval(), x, mask_ratio=1.0)
    for options in ({"mask_dropout": 0.1}, {"mask_ratio": 1.0}):
        method = mae(**options).eval()
        given = wished(method, x, mask_ratio=1.0)
        assert given.x is None and given.known is None
        frames = walked(method, given, "renoise")
        end = frames[-1][1]
        assert end.shape == (4, *SHAPE) and torch.isfinite(end).all() and len(end.flatten(1).unique(dim=0)) == 4
    with pytest.raises(UsageError, match="hides all of --input"):
        method.wish(Batch(torch.arange(1)), SimpleNamespace(mask_ratio=None, input="a.png", seed=0), lambda: Held(x))


def test_equiprob_walks_several_steps_a_decoder():
    method, x = mae(levels="equiprob").eval(), images()
    given = wished(method, x)
    times, asked = method.times(9, "", grid), []
    for i, each in enumerate(method.denoiser.net.decoders):
        each.register_forward_hook(lambda *_, i=i: asked.append(i))
    with torch.no_grad():
        frames = list(method.trajectory(given, SHAPE, sampler("renoise"), times, lambda d: d, rows()))
    assert len(frames) == 10 and asked == [0] * 3 + [1] * 3 + [2] * 3
    assert torch.equal(frames[-1][1][given.known], x[given.known])


def test_decoders_hear_their_level_where_they_have_an_interval():
    """The same x at two levels of an interval is answered otherwise, beyond what c_in and c_out do."""
    for levels, told in (("karras", False), ("equiprob", True)):
        method, x = mae(levels=levels).eval(), images()
        with torch.no_grad():
            cond = method.cond(batch(x), rows())
            low, high = (
                method.denoiser.net.decode(0, cond["features"], cond["visible"], x, torch.full((4,), c))
                for c in (0.1, 0.9)
            )
        assert torch.equal(low, high) != told
