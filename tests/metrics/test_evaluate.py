"""What `eval` writes: numbers with their provenance, and measures that give the known answer on known pictures."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from commands import TINY
from commands import run as command
from diffcli import recipe as recipes
from diffcli.core.method import Batch
from diffcli.core.random import Rows
from diffcli.engine.evaluate import Bench
from diffcli.engine.load import load
from diffcli.engine.measures import agreement, fd, loss
from diffcli.engine.sample import Samples
from diffcli.metrics.frechet import frechet
from diffcli.sections import EvalOptions


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A trained conditional rf of its own, below the working folder of `cli`."""
    (one,) = (trained / "runs" / "rf").iterdir()
    return Path(shutil.copytree(one, tmp_path / "runs" / "rf" / "only"))


@pytest.fixture(scope="module")
def pictured(tmp_path_factory) -> Path:
    """A run on 40 grey pictures of 256 levels, 8x8; every tenth is held out."""
    folder = tmp_path_factory.mktemp("pictured")
    (folder / "pictures").mkdir()
    pixels = torch.randint(0, 256, (40, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for i, picture in enumerate(pixels):
        Image.fromarray(picture.numpy()).save(folder / "pictures" / f"{i:02d}.png")
    data = ("--dataset", "folder", "--path", folder / "pictures", "--size", "8", "--color", "grey")
    ran = command("train", "rf", *data, *TINY, "--output", folder / "run")
    assert ran.code == 0, ran.err
    return folder / "run"


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "evals.jsonl").read_text().splitlines()]


def bench(trained: Path, **options) -> Bench:
    model = load(trained / "runs" / "rf")
    return Bench(model, model.recipe, EvalOptions(**options), lambda done: None)


def measured(it: Bench, measure) -> dict[str, dict]:
    """The records of a measure, of the samples that the bench holds now."""
    it.__dict__.pop("compared", None)
    return {record["metric"]: record for record in measure(it)}


def drawn(x: torch.Tensor, label: torch.Tensor | None = None) -> Samples:
    """Pictures in place of samples."""
    return Samples(x, x, x, label, [], nfe=7.0, calls=7, facts={"sampler": {"name": "none"}})


def test_eval_prints_and_appends_finite_records(run, cli):
    """midpoint at 5 steps costs 10 calls an image; the lines of the file are the records that were printed."""
    asked = (
        "eval",
        run,
        "--sampler",
        "midpoint",
        "--metric",
        "loss,fd,agreement",
        "--samples",
        "40",
        "--images",
        "64",
        "--steps",
        "5",
        "--json",
    )
    ran = cli(*asked)
    assert ran.code == 0, ran.err
    records = ran.json["records"]
    assert [r["metric"] for r in records] == ["loss", "fd[lenet]", "fd[pixels]", "agreement[3nn]"]
    assert lines(run) == [
        {k: v for k, v in r.items() if k in stored} for r, stored in zip(records, lines(run), strict=True)
    ]
    for record in records:
        assert math.isfinite(record["value"]) and record["step"] == 4 and record["weights"] == "ema"
        assert record["dataset"] == "digits" and record["run"].endswith("only")
    of_loss, _, of_fd, of_agreement = records
    assert of_loss["images"] == 64 and "nfe" not in of_loss
    for record in (of_fd, of_agreement):
        assert (record["n"], record["nfe"], record["steps"]) == (40, 10, 5)
        assert record["sampler"] == {"name": "midpoint"}
    assert of_fd["value"] > of_fd["floor"] > 0 and of_fd["reference"] == 359
    assert 0 <= of_agreement["value"] <= 1 and of_agreement["reference"] == 1438

    again = [{**record, "date": records[0]["date"]} for record in cli(*asked).json["records"]]
    assert again == [{**record, "date": records[0]["date"]} for record in records], "the same seed is the same number"
    assert len(lines(run)) == 8
    assert cli("eval", run, "--metric", "loss", "--images", "64", "--raw").code == 0
    assert lines(run)[-1]["weights"] == "raw"


def test_nll_from_the_command_line(pictured):
    ran = command("eval", pictured, "--metric", "nll", "--images", "64", "--json")
    assert ran.code == 0, ran.err
    (record,) = ran.json["records"]
    assert record["metric"] == "nll" and record["unit"] == "bits/dim" and record["images"] == 4
    assert 7 < record["value"] < 12, "bytes of noise cost 8 bits, and what knows nothing of them a little more"
    assert 0 < record["standard_error"] < 1
    assert lines(pictured)[-1]["value"] == record["value"]


def test_nll_of_one_image_has_no_standard_error_and_is_no_crash(pictured):
    ran = command("eval", pictured, "--metric", "nll", "--images", "1", "--json")
    assert ran.code in (0, 2), ran.err


def test_a_measure_that_cannot_be_is_refused_before_any_work(run, cli):
    """digits has 17 levels: its bits are not those of bytes. Nothing is drawn for what stands beside it."""
    ran = cli("eval", run, "--metric", "fd,nll", "--samples", "4", "--steps", "2")
    assert ran.code == 2
    assert "error: nll is of 8-bit images, but digits has 17 levels" in ran.err
    assert "sample 4/4" not in ran.err
    assert not (run / "evals.jsonl").exists()


def test_fd_of_training_images_is_its_own_floor(trained):
    it = bench(trained)
    for n in (40, 300):
        real, label = it.real(it.train, n)
        it.__dict__["samples"] = drawn(real, label)
        record = measured(it, fd)["fd[pixels]"]
        assert record["value"] == pytest.approx(record["floor"], rel=1e-9) and record["floor"] > 0
        assert ("warning" in record) == (n <= 64)
        assert record["n"] == n and record["nfe"] == 7


def test_fd_of_the_held_out_images_is_nothing_and_of_noise_it_is_much(trained):
    it = bench(trained)
    real, label = it.real(it.test, 10000)
    it.__dict__["samples"] = drawn(real, label)
    same = measured(it, fd)
    it.__dict__["samples"] = drawn(torch.randn(300, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    noise = measured(it, fd)
    for name in ("fd[pixels]", "fd[lenet]"):
        assert same[name]["value"] < 1e-6 < same[name]["floor"] < noise[name]["value"] / 10


def test_fd_sees_pictures_as_they_are_written(trained):
    """Values beyond [-1, 1] are drawn as black and white, and measured so."""
    it = bench(trained)
    real, label = it.real(it.train, 100)
    it.__dict__["samples"] = drawn(torch.where(real.abs() == 1, 3 * real, real), label)
    record = measured(it, fd)["fd[pixels]"]
    assert record["value"] == pytest.approx(frechet(real.flatten(1), it.real(it.test, 10000)[0].flatten(1)), rel=1e-9)


def test_agreement_of_real_held_out_digits_is_that_of_the_judge(trained):
    it = bench(trained)
    real, label = it.real(it.test, 10000)
    it.__dict__["samples"] = drawn(real, label)
    (record,) = agreement(it)
    assert record["value"] == record["real"] >= 0.97
    assert record["n"] == 359 and record["reference"] == 1438


def test_agreement_of_other_classes_is_none(trained):
    it = bench(trained)
    real, label = it.real(it.train, 200)
    it.__dict__["samples"] = drawn(real, (label + 1) % 10)
    (record,) = agreement(it)
    assert record["value"] < 0.02


def test_real_images_come_in_a_fixed_order_that_is_not_the_files(trained):
    """A floor on the first images of a sorted file would be one of a few classes."""
    it = bench(trained)
    a, b = it.real(it.train, 100), it.real(it.train, 100)
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert len(a[0]) == 100 and set(a[1].tolist()) == set(range(10))
    whole, _ = it.real(it.train, 10**6)
    assert len(whole) == 1438 and a[0].abs().max() <= 1


def test_loss_of_the_record_is_the_mean_over_single_images(trained):
    """Image j has its own time and noise: batches do not matter (1e-5, the sum of float32)."""
    it = bench(trained, images=20)
    (record,) = loss(it)
    method = it.model.method.eval()
    singles = []
    for j in range(20):
        item = torch.tensor([j])
        with torch.no_grad():
            batch: Batch = it.test.batch(item, item, it.model.space)
            singles.append(float(method.loss(batch, Rows(0, item, 20))["loss"]))
    assert record["value"] == pytest.approx(sum(singles) / 20, rel=1e-5)


def test_auto_is_what_applies(run, trained, cli):
    ran = cli("eval", run, "--samples", "4", "--steps", "2", "--images", "8", "--json")
    names = [record["metric"] for record in ran.json["records"]]
    sets = [f"{name}[{e}]" for name in ("fd", "kd") for e in ("lenet", "pixels")]
    assert names == ["loss", *sets, "accuracy[lenet]", "agreement[3nn]", "memorization[pixels]", "copying[pixels]"]
    assert "prdc is left out: prdc needs 6 samples or more, but there are 4" in ran.err
    assert "warning: fd[lenet]" in ran.err and "n = 4 is not above the 64 features" in ran.err
    recipe = recipes.resolve(recipes.read(run / "recipe.toml"))
    assert recipe.spec.metrics.keys() == {"straightness"}
    ran = cli("eval", run, "--metric", "straightness", "--json")
    assert ran.code == 0, ran.err
    assert math.isfinite(ran.json["records"][0]["value"])
