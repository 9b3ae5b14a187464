"""The pictures of a method's own: where they lie, and that a wrong name costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
from PIL import Image

from commands import Ran
from diffcli.core.method import Preview
from diffcli.engine import preview
from diffcli.engine.load import load
from diffcli.errors import PluginError
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
    assert ran.err == "error: --plot knwon is unknown; there are neighbors, known, held-out, wrong\n"
    ran = cli("eval", filled / "pictures", trained / "runs" / "rf", "--plot", "known")
    assert (ran.code, ran.err) == (2, "error: --plot known is unknown; there are neighbors\n")
    ran = cli("eval", filled / "pictures", "--plot", "wrong")
    assert ran.code == 5 and "plot wrong of fill gave a str, not a PIL image" in ran.err


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
