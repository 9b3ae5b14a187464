"""`eval --plot neighbors`: copies come first, beside the images they are copies of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from commands import Ran, run
from diffcli.engine import images
from diffcli.engine.evaluate import Bench
from diffcli.engine.load import load
from diffcli.engine.plots.neighbors import NEAR, SHOWN, neighbors
from diffcli.engine.sample import Samples
from diffcli.errors import UsageError


def test_copies_come_first(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 held-out images two are replaced by training images with a little noise; what is drawn is looked at."""
    model = load(trained / "runs" / "rf")
    it = Bench(model, model.recipe, model.recipe.evaluation({}))
    x, _ = it.real(it.test, 40)
    items = torch.tensor([5, 900])
    x[[7, 30]] = it.train.batch(items, items, model.space).x + torch.tensor([0.03, 0.0])[:, None, None, None]
    it.__dict__["samples"] = Samples(x, x, x, None, [], 1.0, 1)
    drawn = []
    grid = images.grid
    monkeypatch.setattr(images, "grid", lambda *a, **k: drawn.append((a, k)) or grid(*a, **k))
    sheet = neighbors(it)
    assert sheet.width > sheet.height > 300 and len(drawn) == 4
    captions = drawn[0][1]["captions"]
    assert captions[0] == "#30: 0.00!" and captions[1].startswith("#7: 0.") and captions[1].endswith("!")
    assert not any(caption.endswith("!") for caption in [*captions[2:], *drawn[2][1]["captions"]])
    ratios = [float(caption.split()[1].rstrip("!")) for k in (0, 2) for caption in drawn[k][1]["captions"]]
    assert ratios == sorted(ratios) and len(ratios) == SHOWN
    pictures, near = drawn[0][0][0], drawn[1][0][0]
    assert (pictures[0] == near[0]).all() and drawn[1][1]["captions"][0] == "0.000", (
        "the copy, and what it is a copy of"
    )
    away = float(drawn[1][1]["captions"][NEAR])
    assert 0.02 < away <= 0.03, "a pixel, root mean square; white ones were clamped"


def test_it_is_drawn_of_any_method_of_pictures(filled: Path, trained: Path, cli) -> None:
    for folder in (filled / "pictures", trained / "runs" / "ddpm"):
        ran: Ran = cli("eval", folder, "--plot", "neighbors", "--samples", "3", "--steps", "1")
        assert ran.code == 0, ran.err
        path = Path(ran.out.splitlines()[-1])
        assert path.name == "neighbors.png" and path.is_file()
        path.unlink()


def test_texts_have_none(filled: Path) -> None:
    ran = run("eval", filled / "texts", "--plot", "neighbors", "--samples", "2")
    assert ran.code == 2 and "--plot neighbors is of pictures, but" in ran.err
    with pytest.raises(UsageError, match="is of text"):
        model = load(filled / "texts")
        neighbors(Bench(model, model.recipe, model.recipe.evaluation({})))
