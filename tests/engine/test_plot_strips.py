"""`eval --plot strips`: the way of a sample is that which `sample --trajectory` draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from commands import run
from diffcli.engine import images
from diffcli.engine.evaluate import Bench
from diffcli.engine.load import load, overlay
from diffcli.engine.plots import strips as plot
from diffcli.engine.plots.strips import strips
from diffcli.engine.sample import sample


def seen(monkeypatch: pytest.MonkeyPatch, it: Bench) -> dict:
    """What the picture is made of."""
    made: dict = {}
    monkeypatch.setattr(plot, "sheet", lambda rows, **more: made.update(rows=rows, **more))
    strips(it)
    return made


def test_a_row_a_class_from_noise_to_the_sample(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(trained / "runs" / "rf")
    it = Bench(model, model.recipe, model.recipe.evaluation({"steps": 20, "label": "7,2"}))
    made = seen(monkeypatch, it)
    asked = {"steps": 20, "label": "7,2", "samples": 2, "trajectory": 10}
    recipe = overlay(model.recipe, None, asked)
    alone = sample(model, recipe.sample, recipe.parts["sampler"])
    assert made["captions"] == ["2", "7"] and alone.label.tolist() == [7, 2], "rows are in the order of classes"
    assert made["heads"] == [f"t={t:.3f}" for t, _ in alone.frames] and len(made["heads"]) == 10
    for row, i in zip(made["rows"], (1, 0), strict=True):
        for tile, (_, x) in zip(row, alone.frames, strict=True):
            assert np.array_equal(tile, images.single(images.to_pictures(x)[i]))
    assert np.array_equal(made["rows"][0][-1], images.single(images.to_pictures(alone.x)[1]))
    assert made["heads"][0] == "t=1.000" and made["heads"][-1] == "t=0.000"
    assert "20 steps" in made["title"][0] and "seed 0" in made["title"][0]


def test_a_class_is_named_once(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(trained / "runs" / "rf")
    it = Bench(model, model.recipe, model.recipe.evaluation({"steps": 2, "label": "7,2", "per_class": 2}))
    assert seen(monkeypatch, it)["captions"] == ["2", "", "7", ""]


def test_eight_rows_where_there_are_no_classes(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(filled / "pictures")
    it = Bench(model, model.recipe, model.recipe.evaluation({"steps": 3, "trajectory": 2}))
    made = seen(monkeypatch, it)
    assert len(made["rows"]) == 8 and made["heads"] == ["t=1.000", "t=0.000"] and not any(made["captions"])
    first = made["rows"][0][0]
    assert first.mode == "RGB" and first.getpixel((0, 0)) == (170, 51, 119), "masked: purple"


def test_what_has_no_way_is_refused(filled: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = run("eval", filled / "texts", "--plot", "strips")
    assert ran.code == 2 and "diffcli sample --trajectory 10" in ran.err
    ran = run("eval", filled / "pictures", "--plot", "strips", "--label", "1")
    assert ran.code == 2 and "--label needs a model that knows classes" in ran.err
