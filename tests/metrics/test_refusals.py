"""What cannot be measured is refused before it costs anything, and help says what can be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from diffcli.engine.measures import MEASURES, gives, refuse_unknown
from diffcli.errors import UsageError
from diffcli.plugin import Spec


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
        (["--metric", ""], "--metric has an empty name; give names with commas between them: there are loss, fd"),
        (["--metric", "fd,,kd"], "--metric has an empty name"),
        (["--metric", "auto,fd"], "--metric auto stands alone; leave it out, or leave the others out"),
        (["--metric", "precision"], "--metric precision is unknown: precision is given by prdc; there are"),
        (["--metric", "copying"], "copying is given by memorization"),
        (["--metric", "accuracy[lenet]"], "accuracy[lenet] is given by accuracy"),
        (["--metric", "fd,prdc", "--samples", "5"], "prdc needs 6 samples or more, but there are 5"),
        (["--metric", "fd", "--output", "x"], "--output is the folder of a comparison; give two runs or more"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_drawn(run, cli, asked, says):
    ran = cli("eval", run, "--samples", "40", "--steps", "1", *asked)
    assert ran.code == 2 and says in ran.err
    assert "sample" not in ran.err.replace("samples", "") and not (run / "evals.jsonl").exists()


@pytest.mark.parametrize(
    ("metric", "measure"),
    [
        ("precision[lenet]", "prdc"), ("recall", "prdc"), ("density[pixels]", "prdc"), ("coverage", "prdc"),
        ("copying[pixels]", "memorization"), ("memorization[pixels]", "memorization"), ("fd[lenet]", "fd"),
        ("agreement[3nn]", "agreement"), ("nelbo[bits/char]", "nelbo"), ("nelbo[rate<0.3]", "nelbo"), ("loss", "loss"),
    ],
)  # fmt: skip
def test_what_gives_a_record_is_known_by_its_name(metric, measure):
    assert gives(metric) == measure


def test_names_are_known_without_a_model():
    spec = Spec(name="toy", target="toy:Toy", summary="A toy.", metrics={"own": "toy:own"})
    refuse_unknown(spec, ["auto"])
    refuse_unknown(spec, [*MEASURES, "own"])
    with pytest.raises(UsageError, match=r"--metric othre is unknown; there are loss, .*, finetune, own"):
        refuse_unknown(spec, ["fd", "othre"])


def test_help_names_the_measures_of_the_method(run, cli):
    ran = cli("eval", run, "--help")
    assert "Its own: straightness." in " ".join(ran.out.replace("\u2502", " ").split())
    assert "neighbors" in ran.out
