"""`eval RUN RUN`: one table and one plot of records that are alike, and none of those that are not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from commands import DIGITS, TINY, run
from diffcli.engine import evaluate
from diffcli.engine.charts import chart
from diffcli.engine.compare import Comparison, labels
from diffcli.engine.load import load, split
from diffcli.engine.measures import loss
from diffcli.engine.records import comparable
from diffcli.errors import EnvironmentProblem
from diffcli.recipe import dumps, read, resolve

CHEAP = ["--samples", "12", "--steps", "2", "--images", "20"]


@pytest.fixture(scope="module")
def enlarged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on digits of another size."""
    folder = tmp_path_factory.mktemp("enlarged") / "large"
    ran = run("train", "rf", *DIGITS[:2], "--size", "12", "--cond", "label", *TINY, "--output", folder)
    assert ran.code == 0, ran.err
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the runs a and b of two methods."""
    for name, method in (("a", "rf"), ("b", "ddpm")):
        (one,) = (trained / "runs" / method).iterdir()
        shutil.copytree(one, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def kept(folder: str | Path) -> list[str]:
    return [json.loads(line)["metric"] for line in (Path(folder) / "evals.jsonl").read_text().splitlines()]


def test_two_methods_stand_side_by_side(place: Path) -> None:
    """The loss is left out by auto: it is another function in each. Cost is told, not compared."""
    ran = run("eval", "a", "b", *CHEAP, "--sampler", "ddim", "--extractor", "pixels", "--output", "out", "--json")
    assert ran.code == 0, ran.err
    head, *lines = [line.split() for line in ran.out.splitlines()]
    assert head == ["metric", "n", "real", "a", "b"]
    names = [line[0] for line in lines[: len(kept("a")) + 1]]
    assert names == [*kept("a"), "nfe"] and kept("a") == kept("b") and "loss" not in names
    table = json.loads(Path("out/table.json").read_text())
    assert [one["label"] for one in table["runs"]] == ["a", "b"] and table["records"].keys() == set(kept("a"))
    assert table["records"]["fd[pixels]"] == [r for r in ran.json["records"] if r["metric"] == "fd[pixels]"]
    assert [Path(path).name for path in ran.json["plots"]] == ["table.json", "compare.png", "compare.pdf"]
    with Image.open("out/compare.png") as picture:
        assert picture.width > 800
    assert Path("out/compare.pdf").read_bytes().startswith(b"%PDF")


def test_by_itself_it_lies_under_compare(place: Path) -> None:
    ran = run("eval", "a", "b", *CHEAP, "--metric", "fd", "--extractor", "pixels")
    assert ran.code == 0, ran.err
    (folder,) = Path("compare").iterdir()
    assert ran.out.splitlines()[-1] == str(folder / "compare.pdf")


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        ("loss", "loss of a and b cannot be compared: objective is rf, rectified and ddpm, eps, cosine; losses of"),
        ("fd,loss", "loss of a and b cannot be compared"),
    ],
)
def test_losses_of_two_methods_are_not_compared(place: Path, metric: str, says: str) -> None:
    ran = run("eval", "a", "b", *CHEAP, "--metric", metric, "--extractor", "pixels")
    assert ran.code == 2 and f"error: {says}" in ran.err
    assert "loss" in kept("a") and "loss" in kept("b") and not Path("compare").exists()


def test_other_data_are_not_compared(place: Path, enlarged: Path) -> None:
    """Before anything is measured."""
    ran = run("eval", "a", enlarged, *CHEAP, "--metric", "fd", "--extractor", "lenet")
    assert ran.code == 2 and ran.err == (
        "error: numbers of a and large cannot be compared: shape is 1, 8, 8 and 1, 12, 12; give runs of one data set in one size\n"
    )
    assert not Path("a/evals.jsonl").exists() and not (enlarged / "evals.jsonl").exists()


def test_other_splits_are_refused_before_anything_is_measured(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = []

    def other(model: Any, recipe: Any, name: str) -> Any:
        count.append(data := split(model, recipe, name))
        data.split += f", part {len(count)}"
        return data

    monkeypatch.setattr(evaluate, "split", other)
    ran = run("eval", "a", "b", *CHEAP)
    assert ran.code == 2 and "numbers of a and b cannot be compared: split is digits/test, index" in ran.err
    assert "part 1 and digits/test" in ran.err and not Path("a/evals.jsonl").exists()


def test_other_images_under_the_same_words_are_not_compared(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder whose files were changed: of any measure, also of one that compares nothing with them."""
    made = [load(name) for name in ("a", "b")]
    assert measured_of(made[0])["reference_sha256"] == measured_of(made[0])["reference_sha256"]

    def other(model: Any, recipe: Any, name: str) -> Any:
        data = split(model, recipe, name)
        data.images[5, 0, 0, 0] += 1
        return data

    before = measured_of(made[0])
    monkeypatch.setattr(evaluate, "split", other)
    after = measured_of(made[0])
    assert comparable(before, after) == "reference_sha256" and before["split"] == after["split"]


def measured_of(model: Any) -> dict[str, Any]:
    """The record of a loss."""
    it = evaluate.Bench(model, model.recipe, model.recipe.evaluation({"images": 4}))
    return next(loss(it))


def test_other_classes_are_not_compared(place: Path) -> None:
    """The recipe of b asks for some; those of a are all."""
    recipe = Path("b/recipe.toml")
    recipe.write_text(recipe.read_text() + '\n[eval]\nlabel = "3,0-1"\n')
    ran = run("eval", "a", "b", *CHEAP, "--metric", "fd", "--extractor", "pixels", "--sampler", "ddim")
    assert ran.code == 2
    assert "label is none and 0, 1, 3; ask both for the same classes with --label" in ran.err
    assert run("eval", "a", "b", *CHEAP, "--metric", "fd", "--label", "0-9", "--sampler", "ddim").code == 0


@pytest.mark.slow
def test_auto_says_that_the_loss_is_left_out(place: Path) -> None:
    ran = run("eval", "a", "b", *CHEAP, "--sampler", "ddim", "--extractor", "pixels")
    assert ran.code == 0 and "loss is left out: losses of different objectives are different functions" in ran.err
    assert "loss is left out" not in run("eval", "a", "a", *CHEAP, "--extractor", "pixels").err


def test_a_comparison_that_cannot_be_kept_is_told_all_the_same(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "append", refused)
    ran = run("eval", "a", "b", *CHEAP, "--metric", "fd", "--extractor", "pixels", "--sampler", "ddim")
    assert ran.code == 6 and ran.err.splitlines()[-1] == "error: the disk is full"
    assert ran.out.splitlines()[1].startswith("fd[pixels]")


def refused(*_: Any) -> None:
    raise EnvironmentProblem("the disk is full")


def test_other_data_sets_are_refused_before_anything_is_measured(place: Path) -> None:
    tables = resolve(read("b/recipe.toml")).tables() | {"dataset": {"name": "shapes"}}
    Path("b/recipe.toml").write_text(dumps(resolve(tables)))
    ran = run("eval", "a", "b", *CHEAP)
    assert ran.code == 2 and not Path("a/evals.jsonl").exists()
    assert ran.err.startswith("error: numbers of a and b cannot be compared: dataset is digits and shapes; give runs")


def test_another_n_is_not_compared(place: Path) -> None:
    """The recipe of b measures fewer samples."""
    recipe = Path("b/recipe.toml")
    recipe.write_text(recipe.read_text() + "\n[eval]\nsamples = 11\n")
    ran = run("eval", "a", "b", "--steps", "2", "--metric", "fd", "--extractor", "pixels", "--sampler", "ddim")
    assert ran.code == 2
    assert "fd[pixels] of a and b cannot be compared: n is 1000 and 11; give them the same --samples" in ran.err
    assert kept("a") == kept("b") == ["fd[pixels]"]


def test_a_folder_that_holds_something_is_left_alone(place: Path) -> None:
    Path("out").mkdir()
    Path("out/mine").write_text("mine")
    ran = run("eval", "a", "b", *CHEAP, "--output", "out")
    assert ran.code == 4 and "out is not empty" in ran.err and not Path("a/evals.jsonl").exists()


def test_a_measure_that_one_run_alone_has_leaves_a_gap() -> None:
    one = {"metric": "nll", "value": 2.0, "unit": "bits/dim", "images": 4}
    made = Comparison(["a", "b"], [[one], [{"metric": "fd[x]", "value": 1.0, "floor": 0.5, "n": 7, "nfe": 10.0}]], [])
    head, lines = made.table()
    assert head == ["metric", "n", "real", "a", "b"]
    assert lines == [["nll", "4", "", "2", ""], ["fd[x]", "7", "0.5", "", "1"], ["nfe", "", "", "", "10"]]


@pytest.mark.parametrize(
    ("runs", "want"),
    [
        (["/x/a", "/x/b"], ["a", "b"]),
        (["/x/a/run", "/x/b/run"], ["a/run", "b/run"]),
        (["/runs/rf/20260101-000000", "/runs/ddpm/20260101-000001"], ["rf/20260101-000000", "ddpm/20260101-000001"]),
        (["/x/a", "/x/a"], ["a", "a"]),
    ],
)
def test_labels_are_as_short_as_they_can_be(runs: list[str], want: list[str]) -> None:
    assert labels(list(map(Path, runs))) == want


def test_a_plot_is_the_same_bytes_for_the_same_numbers_and_bears_one_value_everywhere(tmp_path: Path) -> None:
    metrics = {"fd[x]": [{"value": 0.0, "floor": 0.0}, {"value": 0.0, "floor": 0.0}], "y": [None, {"value": 1.0}]}
    for name in ("one", "two"):
        assert [path.name for path in chart(["a", "b"], metrics, tmp_path / name)] == [f"{name}.png", f"{name}.pdf"]
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert chart(["a"], {}, tmp_path / "none") == []
