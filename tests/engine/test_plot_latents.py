"""`eval --plot latents`: where an autoencoder puts images, on axes that pictures of one run share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import nn

from commands import run
from diffcli.core.space import Latents, Pixels
from diffcli.engine.evaluate import Bench
from diffcli.engine.load import Model, load
from diffcli.engine.plots.scatter import CLASSES, GREY, STEPS, averaged, by_class, latents, legend, window
from diffcli.engine.sample import Samples
from diffcli.errors import UsageError
from diffcli.metrics.projection import principal


class Halves(nn.Module):
    """Latents (c, 8, 4) of pictures (1, 8, 8): channel k is the left half plus k times the right one."""

    latent_bound = 1.0

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def encode(self, x):
        return torch.cat([x[..., :4] + k * x[..., 4:] for k in range(self.channels)], 1)

    def decode(self, z, rng):
        return torch.cat([z[:, :1], z[:, 1:2] - z[:, :1]], -1)


def bench(trained: Path, **options: object) -> Bench:
    model = load(trained / "runs" / "rf")
    return Bench(model, model.recipe, model.recipe.evaluation({"real": 300, **options}))


def test_each_held_out_image_is_a_point(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two channels those are the axes: the mean over places. The first images, with their classes; no sample is drawn."""
    it = bench(trained)
    monkeypatch.setattr(type(it.model.method), "encode", lambda self, x: Halves(2).encode(x), raising=False)
    drawn = latents(it)
    batch = it.test.batch(torch.arange(300), torch.arange(300), Pixels((1, 8, 8), 10))
    left, right = batch.x[..., :4].double().mean((1, 2, 3)), batch.x[..., 4:].double().mean((1, 2, 3))
    points = torch.tensor(drawn.facts["real_points"], dtype=torch.float64)
    torch.testing.assert_close(points, torch.stack([left, left + right], 1), atol=1e-5, rtol=0)
    assert drawn.facts["real_label"] == batch.label.tolist() and drawn.facts["axes"] == ["channel 1", "channel 2"]
    assert drawn.facts["generated_points"] is None and "samples" not in it.__dict__
    assert drawn.facts["latent_shape"] == [2, 8, 4]
    (panel,) = drawn.pictures["latents"].axes
    (low, high), (under, over) = panel.get_xlim(), panel.get_ylim()
    assert low < points[:, 0].min() and points[:, 0].max() < high and high - low == pytest.approx(over - under)
    assert under < points[:, 1].min() and points[:, 1].max() < over


def test_more_channels_are_projected(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = bench(trained)
    monkeypatch.setattr(type(it.model.method), "encode", lambda self, x: Halves(3).encode(x), raising=False)
    drawn = latents(it)
    batch = it.test.batch(torch.arange(300), torch.arange(300), Pixels((1, 8, 8), 10))
    z = averaged(Halves(3).encode(batch.x))
    points = torch.tensor(drawn.facts["real_points"], dtype=torch.float64)
    torch.testing.assert_close(points, principal(z)(z), atol=1e-5, rtol=0)
    assert "principal components" in drawn.pictures["latents"].get_suptitle()
    assert drawn.facts["axes"][0].startswith("component 1 (")


@pytest.mark.parametrize("channels", [2, 3])
def test_a_latent_model_puts_its_samples_behind(trained: Path, channels: int) -> None:
    """Grey, by the same axes: latents of real images in place of samples lie where those do."""
    it, encoder = bench(trained), Halves(channels)
    m = it.model
    space = Latents(encoder, Pixels((1, 8, 8), 10))
    it.model = Model(m.recipe, m.method, space, m.facts, m.device, m.where, m.step, m.weights, m.sha256)
    z = encoder.encode(it.test.batch(torch.arange(40), torch.arange(40), Pixels((1, 8, 8), 10)).x)
    facts = {
        "run": m.where,
        "method": "rf",
        "dataset": "digits",
        "step": 4,
        "weights": "ema",
        "sampler": None,
        "seed": 0,
    }
    it.__dict__["samples"] = Samples(z, z, z, None, [], 1.0, 1, seconds=[1.0], facts=facts)
    drawn = latents(it)
    assert drawn.facts["generated"] == 40 and drawn.facts["generated_points"] == drawn.facts["real_points"][:40]
    (panel,) = drawn.pictures["latents"].axes
    (grey,) = [one for one in panel.collections if len(one.get_offsets()) == 40]
    assert to_hex(grey.get_facecolor()[0]) == GREY
    assert panel.collections[0] is grey, "behind the real ones"


def test_a_class_has_one_colour() -> None:
    """Ten fixed ones, whatever other classes there are; no grey among them."""
    assert len(set(CLASSES)) == 10 and GREY not in CLASSES
    names = [f"class {k}" for k in range(12)]
    label = torch.tensor([3, 11, 3, 0])
    figure = Figure()
    panel = figure.subplots()
    by_class(panel, torch.arange(8.0).view(4, 2), label, names)
    cloud = next(one for one in panel.collections if len(one.get_offsets()) == 4)
    colors = {tuple(at): to_hex(c) for at, c in zip(cloud.get_offsets().tolist(), cloud.get_facecolor(), strict=True)}
    wanted = {(0.0, 1.0): CLASSES[3], (2.0, 3.0): CLASSES[1], (4.0, 5.0): CLASSES[3], (6.0, 7.0): CLASSES[0]}
    assert colors == wanted
    legend(figure, panel)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["class 0", "class 3", "class 11"]
    panel = figure.subplots()
    by_class(panel, torch.zeros(30, 2), torch.arange(30), list(map(str, range(30))))
    legend(figure, panel)
    assert len(figure.legends) == 1, "thirty names are not read"


def test_axes_are_round_and_hold_all_points() -> None:
    """A square with all points inside, at most 2.4 times as wide as they are, the same for points that moved a little."""
    g = torch.Generator().manual_seed(0)
    for _ in range(500):
        size, shift = 10 ** torch.randn(2, generator=g, dtype=torch.float64)
        points = torch.randn(6, 2, generator=g, dtype=torch.float64) * size + shift
        (left, low), width = window(points)
        inside = (points - torch.tensor([left, low], dtype=torch.float64)) / width
        assert (inside > 0).all() and (inside < 1).all()
        spread = float((points.max(0).values - points.min(0).values).max())
        assert spread < width < 2.4 * spread
        digits = width / 10.0 ** torch.tensor(width).log10().floor().item()
        assert any(abs(digits - step) < 1e-6 or abs(digits - 10) < 1e-6 for step in STEPS)
    square = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    assert window(square) == window(square * 1.1) == window(square + 0.05) == ([-1.5, -1.5], 3.0)
    assert window(torch.ones(3, 2))[1] > 0


def test_models_in_pixels_are_refused(trained: Path) -> None:
    ran = run("eval", trained / "runs" / "rf", "--plot", "latents")
    assert ran.code == 2 and "--plot latents is of an autoencoder or of a model in its latents, but" in ran.err
    with pytest.raises(UsageError, match="is in pixels; leave it out"):
        latents(bench(trained))
