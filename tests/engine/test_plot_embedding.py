"""`eval --plot embedding`: one plane for real and generated images, of any method of pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from shutil import copytree
from types import ModuleType

import pytest
import torch

from commands import run
from diffcli.engine import plots
from diffcli.engine.evaluate import Bench
from diffcli.engine.load import load
from diffcli.engine.plots.embedding import embedding, needed, pca, tsne, umap
from diffcli.engine.sample import Samples
from diffcli.errors import UsageError
from diffcli.metrics.projection import principal

ASKED = ["--plot", "embedding", "--samples", "6", "--steps", "2", "--real", "9", "--label", "1,2", "--json"]


def bench(trained: Path, x: torch.Tensor | None = None, **options: object) -> Bench:
    """x: in place of samples."""
    model = load(trained / "runs" / "rf")
    it = Bench(model, model.recipe, model.recipe.evaluation({"real": 50, "samples": 20, "steps": 2, **options}))
    if x is not None:
        facts = {"run": model.where, "method": "rf", "dataset": "digits", "step": 4, "weights": "ema", "sampler": None}
        facts |= {"steps": None, "seed": 0, "label": None}
        it.__dict__["samples"] = Samples(x, x, x, None, [], 1.0, 1, seconds=[1.0], facts=facts)
    return it


def test_the_plane_is_that_of_both(trained: Path) -> None:
    """One fit of real and generated images, in [0, 1]; samples outside are clamped."""
    x = torch.cat([torch.full((7, 1, 8, 8), 3.0), torch.full((3, 1, 8, 8), -1.0)])
    it = bench(trained, x)
    real, label = it.real(it.test, 50)
    both = torch.cat([(real + 1) / 2, torch.ones(7, 1, 8, 8), torch.zeros(3, 1, 8, 8)]).flatten(1).double()
    drawn = embedding(it)
    points = torch.tensor(drawn.facts["real_points"] + drawn.facts["generated_points"], dtype=torch.float64)
    torch.testing.assert_close(points, principal(both)(both), atol=1e-5, rtol=0)  # five decimals
    assert drawn.facts["explained_variance"] == pytest.approx(principal(both).share)
    assert drawn.facts["real_label"] == label.tolist()
    white, black = points[50], points[57]
    assert 4 < float((white - black).norm()) <= 8, "sqrt(64) from each other, less what the plane loses"
    left, right, *_ = drawn.pictures["embedding"].axes
    counts = [len(found.get_offsets()) for panel in (left, right) for found in panel.collections]
    assert sorted(count for count in counts if count) == [10, 50, 60], "both; ours in grey; real ones"
    title = drawn.pictures["embedding"].get_suptitle()
    assert title.startswith("PCA of pixels") and f"{100 * sum(principal(both).share):.1f} % of the variance" in title


def test_copies_of_real_images_lie_on_them(trained: Path) -> None:
    it = bench(trained)
    x, _ = it.real(it.test, 50)
    drawn = embedding(bench(trained, x))
    assert drawn.facts["real_points"] == drawn.facts["generated_points"]


def test_the_same_command_gives_the_same_files(trained: Path, cli, tmp_path: Path) -> None:
    folder = Path(copytree(next((trained / "runs" / "ddpm").iterdir()), tmp_path / "ddpm"))
    seen = []
    for _ in range(2):
        ran = cli("eval", folder, *ASKED)
        assert ran.code == 0, ran.err
        seen.append({Path(path).name: Path(path).read_bytes() for path in ran.json["plots"]})
    told, again = (json.loads(files.pop("embedding.json")) for files in seen)
    assert set(seen[0]) == {"embedding.png", "embedding.pdf", "embedding-generated.png"} and seen[0] == seen[1]
    for one in (told, again):
        del one["date"], one["seconds_per_sample"]
    assert told == again and told["samples"] == 6 and len(told["real_points"]) == 9
    assert set(told["real_label"]) == {1, 2}
    assert {"sampler", "steps", "nfe", "seed", "weights_sha256", "command", "split"} <= set(told)


def test_another_seed_draws_other_points_of_any_method_of_pictures(trained: Path, filled: Path) -> None:
    for source in (trained / "runs" / "rf", filled / "pictures"):
        model = load(source)
        asked = {"samples": 5, "steps": 2}
        first, again, other = (
            embedding(Bench(model, model.recipe, model.recipe.evaluation({**asked, "seed": seed}))).facts
            for seed in (0, 0, 1)
        )
        assert first["generated_points"] == again["generated_points"] != other["generated_points"]


def test_texts_and_what_is_not_installed_are_refused_at_once(
    filled: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = run("eval", filled / "texts", "--plot", "embedding")
    assert ran.code == 2 and "--plot embedding is of pictures, but" in ran.err
    monkeypatch.setitem(sys.modules, "umap", None)
    monkeypatch.setattr(plots, "drawing", lambda *_: pytest.fail("nothing is drawn"))
    ran = run("eval", trained / "runs" / "rf", "--plot", "strips,embedding", "--projection", "umap")
    assert ran.code == 2 and ran.err.count("\n") == 1
    assert "--projection umap needs umap, which is not installed" in ran.err
    assert "pip install 'diffcli[plots]', or take --projection pca" in ran.err
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(UsageError, match="--projection tsne needs sklearn, which is not installed"):
        needed("tsne")
    assert needed("pca") is None


def test_umap_is_asked_with_the_options(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in for the package, which says what it was given."""
    given = {}

    class UMAP:
        def __init__(self, **options: object) -> None:
            given.update(options)

        def fit_transform(self, x):
            return x[:, :2] * 2

    module = ModuleType("umap")
    module.UMAP = UMAP
    monkeypatch.setitem(sys.modules, "umap", module)
    x = torch.rand(30, 5)
    o = bench(trained, seed=3, min_dist=0.4, neighbors=7).options
    found = umap(x, o)
    assert given == {"n_components": 2, "n_neighbors": 7, "min_dist": 0.4, "random_state": 3}
    torch.testing.assert_close(found.points, x[:, :2].double() * 2)
    assert "UMAP" in found.title and "7 neighbors" in found.title and not found.scaled
    umap(x[:9], bench(trained).options)
    assert given["n_neighbors"] == 8, "15 by default, but never more than there are others"
    umap(x, bench(trained).options)
    assert given["n_neighbors"] == 15 and pca(x, o).scaled


@pytest.mark.slow
def test_tsne_keeps_neighbors_together(trained: Path) -> None:
    """Two clouds that are far apart stay so; the seed decides."""
    pytest.importorskip("sklearn.manifold")
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)) + torch.arange(60)[:, None] % 2 * 20
    found = tsne(x, bench(trained, seed=1).options)
    away = torch.cdist(found.points, found.points) + torch.eye(60) * 1e9
    assert (away.argmin(1) % 2 == torch.arange(60) % 2).all()
    assert torch.equal(found.points, tsne(x, bench(trained, seed=1).options).points)
