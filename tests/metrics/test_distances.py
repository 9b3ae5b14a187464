"""Measures of sets of pictures give the known answer on known pictures, and stand beside the floor of real ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diffcli.engine.evaluate import Bench
from diffcli.engine.load import load
from diffcli.engine.measures import accuracy, fd, kd, memorization, prdc
from diffcli.engine.sample import Samples
from diffcli.errors import UsageError
from diffcli.sections import EvalOptions


def bench(trained: Path, **options) -> Bench:
    model = load(trained / "runs" / "rf")
    return Bench(model, model.recipe, EvalOptions(**options), lambda done: None)


def drawn(x: torch.Tensor, label: torch.Tensor | None = None) -> Samples:
    """Pictures in place of samples."""
    return Samples(x, x, x, label, [], nfe=7.0, calls=7, facts={"sampler": {"name": "none"}})


def measured(it: Bench, measure) -> dict[str, dict]:
    """The records of a measure, of the samples that the bench holds now."""
    it.__dict__.pop("compared", None)
    return {record["metric"]: record for record in measure(it)}


def test_distances_have_the_floor_of_training_images(trained):
    """Where samples are training images they are at the floor, by every measure of sets and every extractor."""
    it = bench(trained)
    real, label = it.real(it.train, 300)
    it.__dict__["samples"] = drawn(real, label)
    for measure, count in ((fd, 2), (kd, 2), (prdc, 8)):
        records = measured(it, measure)
        assert len(records) == count
        for record in records.values():
            assert record["value"] == pytest.approx(record["floor"], rel=1e-9)
            assert (record["n"], record["reference"], record["split"]) == (300, 359, it.test.split)
            assert len(record["reference_sha256"]) == 64 and record["resizer"] == "none"
            assert bool(record["extractor_sha256"]) == (record["extractor"] == "lenet")


def test_what_is_compared_is_computed_once(trained, monkeypatch):
    """Samples, held-out and training images, each once an extractor, whatever is measured of them."""
    from diffcli.metrics.features import Pixels

    calls = []
    features = Pixels.features
    monkeypatch.setattr(Pixels, "features", lambda self, x: calls.append(len(x)) or features(self, x))
    it = bench(trained, extractor="pixels")
    real, label = it.real(it.train, 40)
    it.__dict__["samples"] = drawn(real + 0.1, label)
    for measure in (fd, kd, prdc):
        measured_again = list(measure(it))
        assert measured_again
    assert sorted(calls) == [40, 40, 359]


def test_more_samples_than_training_images_have_a_floor_of_all_of_them(trained):
    """fd and prdc depend on n, so the floor at another n is no floor of theirs: said in the record."""
    it = bench(trained, extractor="pixels")
    it.__dict__["samples"] = drawn(torch.rand(1500, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    for measure in (fd, kd, prdc):
        for record in measured(it, measure).values():
            assert (record["n"], record["floor_n"]) == (1500, 1438)
            assert record["warning"] == (
                "the floor is of 1438 training images, all there are, but n = 1500: it is not one at the same n"
            )


def test_two_doubts_stand_in_one_warning(trained):
    it = bench(trained, extractor="pixels")
    it.__dict__["samples"] = drawn(torch.rand(1500, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    (compared,) = it.compared
    compared.__dict__["real"] = compared.real[:50]
    (record,) = fd(it)
    assert (
        record["warning"].startswith("the floor is of 1438")
        and "; reference = 50 is not above the 64" in record["warning"]
    )


def test_samples_of_some_classes_are_compared_with_real_images_of_those(trained):
    """All of them in reference and floor, but all training images where copies are looked for."""
    it = bench(trained, extractor="pixels", label="3,8", samples=40)
    assert it.classes == [3, 8]
    test, label = it.real(it.test, 10000)
    wanted = test[(label == 3) | (label == 8)]
    it.__dict__["samples"] = drawn(wanted)
    (record,) = fd(it)
    assert record["reference"] == len(wanted) and record["value"] < 1e-9 < record["floor"]
    whole = bench(trained, extractor="pixels")
    whole.__dict__["samples"] = drawn(wanted)
    (other,) = fd(whole)
    assert other["value"] > 1 and other["reference_sha256"] != record["reference_sha256"]
    copied = measured(it, memorization)["copying[pixels]"]
    assert copied["value"] == 0.5 and copied["reference"] == 1438 and copied["floor_n"] == len(wanted)


def test_too_few_real_images_of_the_classes_asked_for_are_refused(trained):
    it = bench(trained, label="3", samples=40)
    for data, what in ((it.train, "training"), (it.test, "held-out")):
        data.labels[(data.labels == 3).nonzero()[5:]] = 4
        with pytest.raises(
            UsageError, match=f"prdc needs 6 {what} images of the classes that --label asks for or more, but"
        ):
            prdc.refuse(it)


def test_the_error_of_copying_is_that_of_none(trained):
    """sqrt((n + m + 1)/(12 n m)) under P = 1/2: no error of a value that lies elsewhere."""
    it = bench(trained, extractor="pixels")
    it.__dict__["samples"] = drawn(it.real(it.train, 300)[0])
    records = measured(it, memorization)
    copied = records["copying[pixels]"]
    assert copied["value"] == 1 and "standard_error" not in copied
    assert copied["null_error"] == pytest.approx((600 / (12 * 300 * 299)) ** 0.5, rel=1e-2)
    assert records["memorization[pixels]"]["floor_error"] > 0


def test_copies_are_seen_and_held_out_images_are_none(trained):
    it = bench(trained)
    fair, label = it.real(it.test, 300)
    it.__dict__["samples"] = drawn(fair, label)
    records = measured(it, memorization)
    assert records["memorization[pixels]"]["value"] == records["memorization[pixels]"]["floor"] < 0.02
    assert records["copying[pixels]"]["value"] == 0.5 and records["memorization[pixels]"]["reference"] == 1438
    copies, label = it.real(it.train, 300)
    noise = 0.02 * torch.randn(copies.shape, generator=torch.Generator().manual_seed(0))
    it.__dict__["samples"] = drawn(copies + noise, label)
    records = measured(it, memorization)
    assert records["memorization[pixels]"]["value"] > 0.9 and records["copying[pixels]"]["value"] > 0.95
    assert set(records) == {"memorization[pixels]", "copying[pixels]"}, "under auto in pixels alone"


def test_accuracy_of_real_digits_is_that_of_the_judge_and_of_other_classes_it_is_none(trained):
    it = bench(trained)
    real, label = it.real(it.test, 10000)
    for asked, low, high in ((label, 0.98, 1), ((label + 1) % 10, 0, 0.02)):
        it.__dict__["samples"] = drawn(real, asked)
        (record,) = accuracy(it)
        assert record["metric"] == "accuracy[lenet]" and low <= record["value"] <= high
        assert record["real"] >= 0.98 and record["real_n"] == 359
    assert record["standard_error"] > 0, "also where all answers are alike"


def test_a_judge_that_does_not_know_the_held_out_images_is_not_believed(trained):
    """Labels of the held-out images are moved by one: no number, but a line that says so."""
    it = bench(trained)
    it.__dict__["samples"] = drawn(*it.real(it.train, 40))
    it.test.labels = (it.test.labels + 1) % 10
    assert list(accuracy(it)) == []
    assert len(it.notes) == 1 and "no accuracy[lenet] is claimed: lenet is right on " in it.notes[0]
    assert "below 90 %" in it.notes[0]
