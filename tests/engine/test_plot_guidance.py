"""`eval --plot guidance`: in a sweep over the scale nothing changes but the scale."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
import torch
from PIL import Image

from commands import TINY, run
from diffcli.engine.evaluate import Bench
from diffcli.engine.load import Model, load, overlay
from diffcli.engine.plots import guidance as plot
from diffcli.engine.plots.curves import Curve, curves, table
from diffcli.engine.plots.guidance import Sweep, across, diversity, grid, judged, sweep
from diffcli.engine.sample import Samples, sample
from diffcli.errors import UsageError

CHEAP = ("--steps", "2", "--per-class", "2", "--scales", "0,1,3")


def bench(model: Model, sampler: str = "ddim", **options: object) -> Bench:
    asked = {"steps": 3, "per_class": 2, "scales": [0.0, 1.0, 3.0], **options}
    recipe = overlay(model.recipe, {"name": sampler}, {})
    return Bench(model, recipe, recipe.evaluation(asked))


def test_diversity_is_the_population_deviation_of_a_pixel() -> None:
    """0 of ten equal images, 0.5 of half black, half white ones, and of one white in four sqrt(1/4 * 3/4)."""
    picture = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert diversity(picture.expand(10, -1, -1, -1)) < 1e-7, "rounding of the mean alone"
    levels = torch.tensor([0.0, 1.0] * 5)[:, None, None, None].expand(-1, 1, 4, 4)
    assert diversity(levels) == 0.5 and diversity(levels[:1]) == 0
    assert diversity(torch.stack([levels, levels * 0.5])).tolist() == [0.5, 0.25], "a cell each"
    one = torch.tensor([1.0, 0, 0, 0])[:, None, None, None]
    assert float(diversity(one)) == pytest.approx((3 / 16) ** 0.5)
    half = torch.cat([levels, torch.zeros_like(levels)], -1)
    assert diversity(half) == 0.25, "averaged over pixels, not pooled with them"


@pytest.mark.parametrize("method", ["rf", "ddpm"])
def test_the_column_without_guidance_is_what_sample_draws(trained: Path, method: str) -> None:
    """Bitwise, each scale that of `sample` with it: class k of image j is sample j K + k."""
    model = load(trained / "runs" / method)
    found = sweep(bench(model))
    assert found.scales == [0.0, 1.0, 3.0] and found.x.shape[:3] == (3, 10, 2)
    for column, scale in ((found.x[1], 1.0), (found.x[2], 3.0)):
        recipe = overlay(
            model.recipe, {"name": "ddim"}, {"steps": 3, "per_class": 2, "guidance_scale": scale, "samples": 1}
        )
        alone = sample(model, recipe.sample, recipe.parts["sampler"])
        assert torch.equal(column.transpose(0, 1).flatten(0, 1), (alone.x.clamp(-1, 1) + 1) / 2)
        assert alone.label.tolist() == [*range(10)] * 2 and found.label.tolist() == [*range(10)]
    assert not torch.equal(found.x[1], found.x[2])


def test_where_the_condition_says_nothing_all_columns_are_one(trained: Path) -> None:
    """The noise of every step of a stochastic sampler is the same too. 1e-4: w (eps_c - eps_null) is rounding."""
    model = load(trained / "runs" / "ddpm")
    assert (sweep(bench(model, "ancestral")).x.std(0) > 1e-3).any(), "the condition says something"
    model.method.weaken = lambda cond: cond
    found = sweep(bench(model, "ancestral"))
    assert torch.equal(found.drawn[0].start, found.drawn[2].start)
    assert float((found.x - found.x[:1]).abs().max()) < 1e-4
    other = replace(bench(model, "ancestral").options, seed=1)
    again = bench(model, "ancestral")
    again.options = other
    assert not torch.allclose(sweep(again).x, found.x, atol=1e-2), "it is noise"


def test_at_zero_the_class_does_not_matter(trained: Path) -> None:
    """Of one class alone, sample i has the same noise whichever it is. 1e-5: eps_null + 0 (eps_c - eps_null)."""
    model = load(trained / "runs" / "rf")
    three, seven = (sweep(bench(model, label=label)) for label in ("3", "7"))
    assert three.label.tolist() == [3] and three.x.shape[:3] == (3, 1, 2)
    torch.testing.assert_close(three.x[0], seven.x[0], atol=1e-5, rtol=0)
    assert (three.x[2] - seven.x[2]).abs().max() > 1e-4


def made(bench: Bench, label: list[int], asked: list[int]) -> Sweep:
    """A sweep of one scale whose samples are held-out images of these classes, two of each, as if others were asked for."""
    real, known = bench.real(bench.test, 400)
    rows = [int((known == k).nonzero()[j]) for j in range(2) for k in label]
    x, told = real[rows], torch.tensor(asked * 2)
    drawn = Samples(x, x, x, told, [], 1.0, 1)
    return Sweep([1.0], told[: len(asked)], ((x + 1) / 2).unflatten(0, (2, -1)).transpose(0, 1)[None], [drawn], [0.0])


def test_the_judge_counts_by_class(trained: Path) -> None:
    """Real images in place of samples: all right, and none where the next class was asked for."""
    it = bench(load(trained / "runs" / "rf"))
    classes = [0, 1, 2, 3, 4, 5]
    (right,) = judged(it, made(it, classes, classes))
    assert right.name == "accuracy[lenet]" and right.real > 0.95
    assert right.mean[0] >= 11 / 12 and len(right.by_class) == 6 and right.by_class[0] == [1.0]
    (wrong,) = judged(it, made(it, classes, [1, 2, 3, 4, 5, 0]))
    assert wrong.mean[0] <= 1 / 12
    (mixed,) = judged(it, made(it, [0, 1, 2], [0, 1, 5]))
    assert [values[0] for values in mixed.by_class] == [1.0, 1.0, 0.0]


def test_without_a_trained_judge_the_nearest_training_images_judge(trained: Path) -> None:
    it = bench(load(trained / "runs" / "rf"), extractor="pixels", neighbors=5)
    (curve,) = judged(it, made(it, [0, 6], [0, 6]))
    assert curve.name == "agreement[5nn]" and curve.mean == [1.0] and curve.real > 0.95
    it = bench(load(trained / "runs" / "rf"), extractor="pixels", reference=10)
    assert judged(it, made(it, [0, 6], [0, 6])) == [], "ten images know too little to be believed"


def test_rows_are_classes_and_columns_scales(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cell is of one level of grey, that of its class and scale."""
    levels = torch.arange(6.0).view(2, 3, 1, 1, 1, 1).expand(2, 3, 4, 1, 8, 8) / 10
    found = Sweep([1.0, 2.5], torch.tensor([4, 0, 2]), levels, [], [])
    seen = {}
    monkeypatch.setattr(plot, "sheet", lambda rows, **more: seen.update(rows=rows, **more))
    grid(found, ["four", "zero", "two"], ["title"])
    assert seen["heads"] == ["w = 1", "w = 2.5"] and seen["captions"] == ["four", "zero", "two"]
    middle = [[round(cell.getpixel((5, 5)) / 25.5) for cell in row] for row in seen["rows"]]
    assert middle == [[0, 3], [1, 4], [2, 5]]
    assert [across(n) for n in (1, 2, 4, 7, 8, 9, 10, 12, 16, 20)] == [1, 2, 2, 3, 4, 3, 5, 4, 4, 5]


def test_files_are_the_same_twice(trained: Path, cli, tmp_path: Path) -> None:
    folder = Path(copytree(trained / "runs" / "rf", tmp_path / "rf"))
    seen = []
    for _ in range(2):
        ran = cli("eval", folder, "--plot", "guidance", *CHEAP, "--label", "0,1", "--json")
        assert ran.code == 0, ran.err
        (where,) = {Path(path).parent for path in ran.json["plots"]}
        seen.append({Path(path).name: Path(path).read_bytes() for path in ran.json["plots"]})
    assert where.name == "plots" and ran.json["records"] == []
    names = {"guidance.png", "diversity.png", "diversity.pdf", "guidance.json", "guidance.txt"}
    assert set(seen[0]) == names
    first, again = (json.loads(one.pop("guidance.json")) for one in seen)
    assert seen[0] == seen[1]
    for one in (first, again):
        del one["date"], one["seconds"]
    assert first == again
    assert first["scales"] == [0, 1, 3] and first["nfe"][2] == 2 * first["nfe"][1]
    assert first["classes"] == ["0", "1"] and first["per_class"] == 2 and first["seed"] == 0
    assert {"run", "weights_sha256", "sampler", "steps", "hardware", "command", "convention"} <= set(first)
    assert "--plot guidance" in first["command"] and "--scales 0.0,1.0,3.0" in first["command"]
    assert "w = 1 is no guidance" in seen[0]["guidance.txt"].decode()


@pytest.mark.slow
def test_several_runs_lie_side_by_side(trained: Path, cli, tmp_path: Path) -> None:
    runs = [Path(copytree(next((trained / "runs" / name).iterdir()), tmp_path / name)) for name in ("rf", "ddpm")]
    ran = cli("eval", *runs, "--plot", "guidance", *CHEAP, "--sampler", "ddim", "--label", "3", "--output", "both")
    assert ran.code == 0, ran.err
    both = tmp_path / "both"
    assert {path.name for path in both.iterdir()} == {
        "guidance-comparison.png",
        "diversity-comparison.png",
        "diversity-comparison.pdf",
        "guidance.json",
        "guidance.txt",
    }
    told = json.loads((both / "guidance.json").read_text())
    assert set(told["curves"]) == {"rf", "ddpm"} and [one["method"] for one in told["runs"]] == ["rf", "ddpm"]
    alone = json.loads((runs[0] / "plots" / "guidance.json").read_text())
    assert told["curves"]["rf"] == alone["curves"]
    with Image.open(both / "guidance-comparison.png") as wide, Image.open(runs[0] / "plots" / "guidance.png") as one:
        assert wide.width > 2 * one.width
    again = cli("eval", *runs, "--plot", "guidance", *CHEAP, "--output", "both")
    assert again.code == 4 and "both is not empty" in again.err
    ran = cli("eval", *runs, "--plot", "strips", "--output", "elsewhere")
    assert ran.code == 2 and "strips is drawn of each run alone" in ran.err and not Path("elsewhere").exists()


def test_what_has_no_classes_is_refused_before_anything_is_drawn(filled: Path, trained: Path, cli) -> None:
    plots = filled / "pictures" / "plots"
    before = sorted(plots.iterdir()) if plots.exists() else []
    ran = cli("eval", filled / "pictures", "--plot", "known,guidance")
    assert ran.code == 2 and ran.err.count("\n") == 1
    assert "--plot guidance needs classes, but" in ran.err and "train with --cond label" in ran.err
    assert (sorted(plots.iterdir()) if plots.exists() else []) == before
    ran = cli("eval", filled / "texts", "--plot", "guidance")
    assert ran.code == 2 and "--plot guidance is of pictures, but" in ran.err
    ran = run("eval", trained / "runs" / "rf", trained / "runs" / "rf", "--plot", "guidance", "--label", "10")
    assert ran.code == 2 and "--label 10 is no class" in ran.err


def test_a_scale_holds_at_all_times(trained: Path) -> None:
    """Outside of an interval the class is told at w = 0 too; and --scales says the scales, not --guidance-scale."""
    model = load(trained / "runs" / "rf")
    with pytest.raises(UsageError, match=r"at all times: outside of --guidance-interval"):
        plot.refuse(bench(model, guidance_interval=(0.2, 0.8)))
    plot.refuse(bench(model, guidance_interval=(0.0, 1.0)))
    with pytest.raises(UsageError, match="--plot guidance has its own --guidance-scale; leave it out"):
        plot.refuse(bench(model, guidance_scale=3.0))
    recipe = overlay(model.recipe, None, {"guidance_scale": 3.0})
    plot.refuse(Bench(model, recipe, recipe.evaluation({})))


def test_samples_tell_when_guidance_acted(trained: Path) -> None:
    model = load(trained / "runs" / "rf")
    for asked, told in (({}, None), ({"guidance_interval": [0.2, 0.8]}, [0.2, 0.8])):
        recipe = overlay(model.recipe, None, {"samples": 1, "steps": 2, "guidance_scale": 2.0, **asked})
        assert sample(model, recipe.sample, recipe.parts["sampler"]).facts["guidance_interval"] == told


def test_curves_show_what_they_are_given() -> None:
    """The mean is thick, each class thin, real images dashed, and the axis is linear up to 1."""
    spread = Curve("diversity", [0.2, 0.1], [[0.3, 0.1], [0.1, 0.1]], 0.15)
    figure = curves([0.0, 50.0], {"": [spread, Curve("accuracy[lenet]", [0.5, 1.0], [[1.0, 1.0], [0.0, 1.0]])]})
    left, right = figure.axes
    assert [line.get_ydata().tolist() for line in left.lines[:3]] == [[0.3, 0.1], [0.1, 0.1], [0.2, 0.1]]
    assert left.lines[2].get_linewidth() > 2 * left.lines[0].get_linewidth()
    assert left.lines[3].get_ydata() == [0.15, 0.15] and len(right.lines) == 4, "one dashed line, and w = 1"
    assert left.get_xscale() == "symlog" and left.get_xlim()[0] > -0.2
    several = curves([0.0, 50.0], {"a": [spread], "b": [spread]})
    assert [line.get_label() for line in several.axes[0].lines if line.get_linewidth() > 1] == ["a", "b"]
    assert len(several.axes[0].lines) == 5, "of several runs no class: two means, two dashed lines, and w = 1"
    lines = table(["head"], [0.0, 50.0], ["x", "y"], [spread]).splitlines()
    assert lines[2] == "diversity; of real images 0.1500" and lines[-1].split() == ["50", "0.1000", "0.1000", "0.1000"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mdlm", "iddpm"])
def test_it_is_drawn_of_each_method_that_knows_classes(method: str, cli, tmp_path: Path) -> None:
    """Beside rf and ddpm; with the other plots of samples, and of shapes as of digits."""
    more = ["--size", "8"] if method == "iddpm" else []
    ran = cli("train", method, "--cond", "label", *TINY, *more, "--output", "it")
    assert ran.code == 0, ran.err
    ran = cli("eval", "it", "--plot", "guidance,embedding,strips", *CHEAP, "--samples", "6", "--json")
    assert ran.code == 0, ran.err
    names = {Path(path).name for path in ran.json["plots"]}
    assert {"guidance.png", "diversity.pdf", "embedding.png", "embedding.json", "strips.png"} <= names
