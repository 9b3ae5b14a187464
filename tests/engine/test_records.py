"""Records: what each must carry, the command that gives it, and which of them are alike."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import tempfile
from pathlib import Path

import pytest

from commands import Ran, run
from diffcli import recipe as recipes
from diffcli.engine import evaluate as evaluating
from diffcli.engine.evaluate import Bench, evaluate
from diffcli.engine.load import load
from diffcli.engine.records import ALIKE, comparable

ALL = {
    "metric", "value", "dataset", "split", "seed", "run", "step", "weights", "weights_sha256", "method", "device",
    "hardware", "versions", "date", "command",
}  # fmt: skip
OF_SAMPLES = {"sampler", "steps", "spacing", "guidance_scale", "clip", "nfe", "n"}
OF_DISTANCES = {"extractor", "extractor_sha256", "resizer", "reference", "reference_sha256", "floor"}
CHEAP = ["--samples", "12", "--steps", "2", "--images", "20"]


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run whose name a shell would take apart."""
    (one,) = (trained / "runs" / "rf").iterdir()
    shutil.copytree(one, tmp_path / "my run")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def records(ran: Ran) -> dict[str, dict]:
    assert ran.code == 0, ran.err
    return {record["metric"]: record for record in ran.json["records"]}


def test_each_record_says_all_that_it_depends_on(place: Path) -> None:
    found = records(run("eval", "my run", *CHEAP, "--metric", "loss,fd,kd,prdc,accuracy,agreement,memorization,straightness", "--json"))  # fmt: skip
    assert len(found) == 18
    for name, record in found.items():
        missing = ALL - record.keys()
        if record.keys() & OF_SAMPLES:
            missing |= OF_SAMPLES - record.keys() if "n" in record else set()
        if name.split("[")[0] in ("fd", "kd", "precision", "recall", "density", "coverage"):
            missing |= OF_DISTANCES - record.keys()
        assert not missing, (name, missing)
        assert record["versions"].keys() == {"diffcli", "torch"} and len(record["weights_sha256"]) == 64
    kept = [json.loads(line) for line in Path("my run/evals.jsonl").read_text().splitlines()]
    assert kept == list(found.values())


@pytest.mark.parametrize(
    "asked",
    [
        [],
        ["--sampler", "ddim", "--eta", "0.5", "--steps", "3"],
        ["--raw", "--seed", "7", "--extractor", "pixels", "--spacing", "logsnr"],
        ["--guidance-scale", "2", "--guidance-interval", "0.2,0.8", "--label", "0-4,7"],
    ],
)
def test_its_command_gives_the_number_again(place: Path, asked: list[str]) -> None:
    """Word for word through a shell's own splitting; only the date differs."""
    for name, record in records(run("eval", "my run", *CHEAP, "--metric", "loss,fd", *asked, "--json")).items():
        words = shlex.split(record["command"])
        assert words[:3] == ["diffcli", "eval", "my run"] and "--json" not in words
        again = records(run(*words[1:], "--json"))[name]
        assert {**again, "date": ""} == {**record, "date": ""}


def test_a_call_from_python_has_its_command_too(place: Path) -> None:
    recipe = recipes.resolve(recipes.read(place / "my run" / "recipe.toml"))
    options = recipe.evaluation({"metric": "fd", "samples": 12, "steps": 2, "extractor": "pixels"})
    (record,) = evaluate("my run", recipe, options)
    assert shlex.split(record["command"])[2:] == [
        "my run", "--metric", "fd", "--samples", "12", "--steps", "2", "--extractor", "pixels",
    ]  # fmt: skip
    assert records(run(*shlex.split(record["command"])[1:], "--json"))["fd[pixels]"]["value"] == record["value"]


def test_records_are_kept_as_they_are_measured(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails later takes none of them away."""
    from diffcli.engine import measures

    def broken(bench: Bench):
        raise ValueError("broken")
        yield

    monkeypatch.setitem(measures.MEASURES, "kd", broken)
    assert run("eval", "my run", *CHEAP, "--metric", "loss,kd").code == 70
    assert [json.loads(line)["metric"] for line in Path("my run/evals.jsonl").read_text().splitlines()] == ["loss"]


def test_records_that_cannot_be_kept_are_refused_before_anything_is_drawn(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that is read-only; and a file that is none, which could lead out of the run."""
    asked = ("eval", "my run", *CHEAP, "--metric", "loss,fd")
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryFile", refused)
        ran = run(*asked)
        assert (ran.code, ran.out, ran.err.count("\n")) == (6, "", 1)
        assert "cannot write my run: permission is denied" in ran.err
    kept = place / "my run" / "evals.jsonl"
    (place / "outside").write_text("mine\n")
    for make in (
        lambda: kept.symlink_to(place / "outside"),
        lambda: kept.symlink_to(place / "nowhere"),
        kept.mkdir,
        lambda: os.mkfifo(kept),
    ):
        make()
        ran = run(*asked)
        assert (ran.code, ran.out, ran.err.count("\n")) == (4, "", 1), ran.err
        assert "evals.jsonl is no regular file, so no record is kept there; move it away" in ran.err
        kept.rmdir() if kept.is_dir() else kept.unlink()
    assert (place / "outside").read_text() == "mine\n" and not (place / "nowhere").exists()


def refused(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


def test_a_table_is_told_before_what_kept_it_from_the_disk(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link appears while it is measured: nothing is written through it, and the numbers are not lost."""
    kept = place / "my run" / "evals.jsonl"
    (place / "outside").write_text("mine\n")
    bench = evaluating.held_out_loss
    monkeypatch.setattr(
        evaluating, "held_out_loss", lambda *a, **k: (kept.symlink_to(place / "outside"), bench(*a, **k))[1]
    )
    ran = run("eval", "my run", *CHEAP, "--metric", "loss,straightness")
    assert ran.code == 4 and ran.err.splitlines()[-1].endswith("so no record is kept there; move it away")
    assert [line.split()[0] for line in ran.out.splitlines()] == ["metric", "loss", "straightness"]
    assert (place / "outside").read_text() == "mine\n"


def test_records_say_which_data_and_which_classes(place: Path) -> None:
    """Of any measure of a split, a method's own among them; all classes are the same as none named."""
    all_, some = (
        records(run("eval", "my run", *CHEAP, "--metric", "loss,fd,agreement", *asked, "--json"))
        for asked in ([], ["--label", "7,1,7"])
    )
    assert {len(one["reference_sha256"]) for one in (*all_.values(), *some.values())} == {64}
    assert all(one["shape"] == [1, 8, 8] for one in all_.values())
    assert all_["loss"]["reference_sha256"] == all_["fd[pixels]"]["reference_sha256"]
    assert all_["agreement[3nn]"]["reference_sha256"] != all_["loss"]["reference_sha256"]
    assert all_["fd[pixels]"]["label"] is None and "label" not in all_["loss"]
    assert some["fd[pixels]"]["label"] == [1, 7, 7]
    assert some["fd[pixels]"]["reference"] < all_["fd[pixels]"]["reference"] == 359
    assert comparable(all_["fd[pixels]"], some["fd[pixels]"]) == "label"
    assert comparable(all_["loss"], some["loss"]) is None
    every = records(run("eval", "my run", *CHEAP, "--metric", "fd", "--label", "0-9", "--per-class", "2", "--json"))
    assert every["fd[pixels]"]["label"] is None and every["fd[pixels]"]["per_class"] == 2


def test_two_records_are_alike_in_all_but_the_model_and_how_it_was_drawn(place: Path) -> None:
    model = load("my run")
    recipe = model.recipe
    it = Bench(model, recipe, recipe.evaluation({"samples": 12, "steps": 2}))
    known = dict.fromkeys(ALIKE, "x")
    record = it.record("fd[pixels]", 1.0, **known)
    for field in ("value", "step", "weights", "weights_sha256", "method", "sampler", "steps", "nfe", "seed", "date"):
        assert comparable(record, {**record, field: "other"}) is None, field
    assert set(ALIKE) >= {"dataset", "split", "shape", "label", "n", "images", "draws", "unit"} | OF_DISTANCES - {
        "floor"
    }
    for field in ALIKE:
        assert comparable(record, {**record, field: "other"}) == field
        assert comparable({k: v for k, v in record.items() if k != field}, record) == field
