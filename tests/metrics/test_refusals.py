"""What cannot be measured is refused before it costs anything, and help says what can be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A trained conditional rf of its own, below the working folder of `cli`."""
    (one,) = (trained / "runs" / "rf").iterdir()
    return Path(shutil.copytree(one, tmp_path / "runs" / "rf" / "only"))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["--metric", "accuracy", "--extractor", "pixels"], "accuracy needs a judge of digits, but pixels has none"),
        (["--metric", "fd", "--extractor", "lenett"], "no extractor named 'lenett'; did you mean 'lenet'"),
        (["--metric", "fd,fed"], "--metric fed is unknown; there are loss, fd, kd, prdc"),
        (["--metric", "fd,prdc", "--samples", "5"], "prdc needs 6 samples or more, but there are 5"),
        (["--metric", "fd", "--output", "x"], "--output is the folder of a comparison; give two runs or more"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_drawn(run, cli, asked, says):
    ran = cli("eval", run, "--samples", "40", "--steps", "1", *asked)
    assert ran.code == 2 and says in ran.err
    assert "sample" not in ran.err.replace("samples", "") and not (run / "evals.jsonl").exists()


def test_help_names_the_measures_of_the_method(run, cli):
    ran = cli("eval", run, "--help")
    assert "Its own: straightness." in " ".join(ran.out.replace("\u2502", " ").split())
    assert "neighbors" in ran.out
