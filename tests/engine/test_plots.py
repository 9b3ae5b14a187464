"""The pictures of a method's own: where they lie, and that a wrong name costs nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
from matplotlib.figure import Figure
from PIL import Image

from commands import Ran
from diffcli.core.method import Preview
from diffcli.engine import plots, preview
from diffcli.engine.evaluate import Bench
from diffcli.engine.load import load
from diffcli.engine.plots import Drawn, draw, draw_plots
from diffcli.errors import PluginError
from diffcli.metrics import PLOTS
from reveal_plugin import Fill


def test_plots_lie_in_the_run(filled: Path, cli: Callable[..., Ran]) -> None:
    run = Path(copytree(filled / "pictures", "run"))
    ran = cli("eval", run, "--plot", "held-out, known", "--samples", "5", "--steps", "1", "--json")
    assert ran.code == 0, ran.err
    files = [run / "plots" / f"{name}.png" for name in ("held-out", "known")]
    assert ran.out.splitlines()[:-1] == list(map(str, files)), "nothing is measured"
    assert ran.json == {"records": [], "plots": list(map(str, files))} and not (run / "evals.jsonl").exists()
    with Image.open(files[0]) as picture:
        assert picture.size == (8, 5), "held-out images and samples of the bench"
    ran = cli("eval", run, "--plot", "known", "--metric", "loss", "--format", "pdf", "--json")
    assert [record["metric"] for record in ran.json["records"]] == ["loss"]
    assert ran.json["plots"] == [str(run / "plots" / "known.pdf")] and (run / "evals.jsonl").exists()


def test_plots_that_cannot_be_written_are_refused_before_anything_is_measured(
    filled: Path, cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(copytree(filled / "pictures", "run", ignore=ignore_patterns("plots", "evals.jsonl")))
    (run / "plots").write_text("a file in the way")
    ran = cli("eval", run, "--plot", "known", "--metric", "loss")
    assert (ran.code, ran.out, ran.err.count("\n")) == (6, "", 1) and "run/plots is no folder" in ran.err
    assert not (run / "evals.jsonl").exists()


def test_plots_of_a_model_folder_lie_here(filled: Path, cli: Callable[..., Ran]) -> None:
    assert cli("export", filled / "pictures", "model").code == 0
    before = sorted(Path("model").iterdir())
    ran = cli("eval", "model", "--plot", "known")
    assert (ran.code, ran.out) == (0, "plots/model/known.png\n"), ran.err
    assert sorted(Path("model").iterdir()) == before and Path("plots/model/known.png").is_file()


def test_unknown_plots_are_refused_before_anything_is_measured(
    filled: Path, trained: Path, cli: Callable[..., Ran]
) -> None:
    ran = cli("eval", filled / "pictures", "--plot", "known,knwon", "--metric", "loss")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"error: --plot knwon is unknown; there are {', '.join(PLOTS)}, known, held-out, wrong\n"
    ran = cli("eval", filled / "pictures", trained / "runs" / "rf", "--plot", "known")
    assert (ran.code, ran.err) == (2, f"error: --plot known is unknown; there are {', '.join(PLOTS)}\n")
    ran = cli("eval", filled / "pictures", "--plot", "wrong")
    assert ran.code == 5 and "plot wrong of fill gave a str, not a PIL image or a Drawn" in ran.err


def test_a_run_draws_the_plots_that_its_method_names(filled: Path) -> None:
    run = filled / "pictures"
    assert sorted(path.name for path in (run / "samples").glob("*.png")) == [
        "final-held-out.png",
        "final.png",
        "step-00000001-held-out.png",
        "step-00000001.png",
    ]
    with Image.open(run / "known.png") as picture:
        assert picture.size == (8, 3)
    assert {"strip.png", "final.png", "step-00-t1.000.png"} <= {path.name for path in (run / "trajectory").iterdir()}


@pytest.mark.parametrize("where", ["plots", "opening"])
def test_a_method_that_names_no_plot_is_told_before_it_is_trained(
    filled: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    model = load(filled / "pictures")
    preview.plan(model, None)
    monkeypatch.setattr(Fill, "preview", lambda method: Preview(**{where: ("known", "gone")}))
    with pytest.raises(PluginError, match=r"method fill: preview\(\) names gone, which is none of its Spec.plots"):
        preview.plan(model, None)


def test_a_method_may_name_plots_of_any_method(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(filled / "pictures")
    monkeypatch.setattr(Fill, "preview", lambda method: Preview(plots=("known", *PLOTS)))
    preview.plan(model, None)


class Made:
    """A plot of two pictures, one of them of lines, and of numbers."""

    @staticmethod
    def plot(bench: Bench) -> Drawn:
        figure = Figure(figsize=(1, 1))
        figure.subplots().plot([0, 1], [0, 1])
        facts = {"numbers": [1, 2.5], "text": "a table\n of them\n"}
        return Drawn({"lines": figure, "image": Image.new("L", (3, 2))}, facts)


def bench_of(run: Path) -> Bench:
    model = load(run)
    return Bench(model, model.recipe, model.recipe.evaluation({"seed": 7}))


def test_a_plot_may_give_pictures_and_the_numbers_behind_them(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images in the format asked for, figures as PNG and PDF, facts with where they are from, and their text to be read."""
    monkeypatch.setattr(plots, "plot_of", lambda name, spec: Made.plot)
    it = bench_of(filled / "pictures")
    files = draw_plots(it, ["made"], tmp_path / "plots", "webp")
    assert [path.name for path in files] == ["lines.png", "lines.pdf", "image.webp", "made.json", "made.txt"]
    assert files[1].read_bytes().startswith(b"%PDF") and files[4].read_text() == "a table\n of them\n"
    told = json.loads(files[3].read_text())
    assert told["numbers"] == [1, 2.5] and "text" not in told and told["plot"] == "made" and told["seed"] == 7
    assert told["weights_sha256"] == it.model.sha256 and told["hardware"] and told["versions"]["torch"]
    assert told["command"] == f"diffcli eval {it.model.where} --plot made --seed 7"
    first = [path.read_bytes() for path in files[:3]]
    assert [path.read_bytes() for path in draw_plots(it, ["made"], tmp_path / "plots", "webp")[:3]] == first
    alone = draw_plots(it, ["made"], tmp_path / "samples", prefix="final-", facts=False)
    assert [path.name for path in alone] == ["final-lines.png", "final-image.png"], "beside a preview"


@pytest.mark.parametrize("wrong", [Drawn({"x": "no picture"}), ("x",), None])
def test_what_is_no_picture_is_the_plugin_s_fault(filled: Path, monkeypatch: pytest.MonkeyPatch, wrong: object) -> None:
    monkeypatch.setattr(plots, "plot_of", lambda name, spec: lambda bench: wrong)
    with pytest.raises(PluginError, match="plot made of fill"):
        draw(bench_of(filled / "pictures"), "made")


def test_neighbors_that_nobody_chose_are_left_to_each(filled: Path) -> None:
    """3 vote in agreement, which a record of it says, and UMAP takes its own."""
    model = load(filled / "pictures")
    assert model.recipe.evaluation({}).neighbors is None
    assert model.recipe.evaluation({"neighbors": 5}).neighbors == 5


def test_an_output_folder_is_for_several_runs(filled: Path, cli: Callable[..., Ran]) -> None:
    ran = cli("eval", filled / "pictures", "--plot", "guidance", "--output", "here")
    assert ran.code == 2 and "--output is the folder of a comparison; give two runs or more" in ran.err
    assert not Path("here").exists()
