"""Loss curves are drawn from any rows, without a warning, and the same each time."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffcli.engine import report
from diffcli.engine.report import curves, points

ROWS = [
    {"step": s, "loss": 0.03 + math.exp(-s / 40)} | ({"held_out": 0.04 + math.exp(-s / 40)} if s % 50 == 0 else {})
    for s in range(1, 200)
]


def test_two_drawings_of_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    a, b = curves(ROWS, tmp_path / "a"), curves(ROWS, tmp_path / "b")
    assert [p.name for p in a] == ["a.png", "a.pdf"]
    assert [p.read_bytes() for p in a] == [p.read_bytes() for p in b]
    assert a[1].read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    "rows",
    [
        [{"step": 1, "loss": 0.5}],
        [{"step": 1, "loss": 0.0}, {"step": 2, "loss": 0.0}],
        [{"step": 1, "loss": -3.0}, {"step": 2, "loss": 2.0}],
        [{"step": s, "loss": 0.7} for s in range(5)],
        [{"step": s, "loss": 10.0 ** (-s)} for s in range(12)],
        [{"step": 10, "held_out": 1.0}, {"step": 20, "held_out": 1.001}],
        [{"step": 10, "loss": None, "held_out": 1.0}, {"step": 20}],
        [{"step": s, "loss": 1 / (s + 1)} for s in range(20_000)],
    ],
)
def test_odd_rows_are_drawn_without_a_warning(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png, _ = curves(rows, tmp_path / "loss")
    with Image.open(png) as image:
        assert len(image.convert("L").getcolors() or []) > 10, "something is drawn"


def test_one_point_has_few_ticks_of_whole_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(report, "save", lambda figure, stem, kind: drawn.append(figure))
    curves([{"step": 1, "loss": 0.5}], tmp_path / "loss")
    (axes,) = drawn[0].axes
    assert [x for x in axes.get_xticks() if axes.viewLim.x0 <= x <= axes.viewLim.x1] == [1]
    assert 1 <= len([y for y in axes.get_yticks() if axes.viewLim.y0 <= y <= axes.viewLim.y1]) <= 8


def test_without_a_loss_nothing_is_drawn(tmp_path: Path) -> None:
    assert curves([{"step": 1, "lr": 1.0}], tmp_path / "loss") == [] and list(tmp_path.iterdir()) == []


def test_every_row_with_the_column_is_a_point() -> None:
    assert [step for step, _ in points(ROWS, "held_out")] == [50, 100, 150]
    assert len(points(ROWS, "loss")) == 199
