"""Records: what each must carry, the command that gives it, and which of them are alike."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from commands import Ran, run
from diffcli import recipe as recipes
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


def test_two_records_are_alike_in_all_but_the_model_and_how_it_was_drawn(place: Path) -> None:
    model = load("my run")
    recipe = model.recipe
    it = Bench(model, recipe, recipe.evaluation({"samples": 12, "steps": 2}))
    known = dict.fromkeys(ALIKE, "x")
    record = it.record("fd[pixels]", 1.0, **known)
    for field in ("value", "step", "weights", "weights_sha256", "method", "sampler", "steps", "nfe", "seed", "date"):
        assert comparable(record, {**record, field: "other"}) is None, field
    assert set(ALIKE) >= {"dataset", "split", "n", "images", "draws", "unit"} | OF_DISTANCES - {"floor"}
    for field in ALIKE:
        assert comparable(record, {**record, field: "other"}) == field
        assert comparable({k: v for k, v in record.items() if k != field}, record) == field
