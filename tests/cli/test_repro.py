"""diffcli repro: a claim holds for what was measured and for nothing else, and only runs of its recipe count."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import pytest

from commands import run
from diffcli import recipe as recipes

RECIPE = """
[method]
name = "rf"

[model]
name = "unet"
channels = 8

[train]
steps = 3
batch_size = 8
log_every = 1

[eval]
images = 32

[claim]
metric = "loss"
value = {value}
tolerance = {tolerance}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """(a run of the recipe, the loss that is measured of it)."""
    place = tmp_path_factory.mktemp("repro")
    path = place / "claim.toml"
    path.write_text(RECIPE.format(value=1e6, tolerance=1.0))
    ran = run("repro", path, "--output", place / "run", "--json")
    assert ran.code == 1, ran.err
    return place / "run", float(ran.json["measured"])


def claim(place: Path, value: float, tolerance: float, **changes: str) -> Path:
    """The recipe with this claim."""
    text = RECIPE.format(value=value, tolerance=tolerance)
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    path = place / "held.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("off", "tolerance", "holds"), [
    (0.0, 0.0, True), (0.4, 0.5, True), (-0.4, 0.5, True), (0.6, 0.5, False), (-0.6, 0.5, False),
])  # fmt: skip
def test_it_holds_within_the_tolerance_on_both_sides(trained, tmp_path, off, tolerance, holds):
    place, measured = trained
    ran = run("repro", claim(tmp_path, measured + off, tolerance), place, "--json")
    assert ran.code == (0 if holds else 1), ran.err
    assert ran.json["holds"] is holds
    assert ran.json["measured"] == measured  # measured again, to the bit
    assert ("not reproduced" in ran.out) is not holds
    assert ("error: loss of" in ran.err) is not holds


def test_training_it_again_gives_the_number_again(trained, tmp_path):
    _, measured = trained
    ran = run("repro", claim(tmp_path, measured, 0.0), "--output", tmp_path / "again", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["run"] == str(tmp_path / "again")


def test_another_seed_is_another_training_of_the_same_claim(trained, tmp_path):
    _, measured = trained
    ran = run("repro", claim(tmp_path, measured, 1e3), "--seed", 1, "--output", tmp_path / "one", "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["training_seed"], ran.json["measured"] != measured) == (1, True)


def test_a_run_carries_its_own_claim(trained):
    place, measured = trained
    ran = run("repro", place, "--json")
    assert (ran.code, ran.json["claimed"], ran.json["measured"]) == (1, 1e6, measured)


def test_the_verdict_is_kept_with_the_record_that_gave_it(trained, tmp_path):
    place, measured = trained
    run("repro", claim(tmp_path, measured, 0.25), place)
    kept = json.loads((place / "repro.json").read_text())
    assert (kept["claimed"], kept["tolerance"], kept["holds"]) == (measured, 0.25, True)
    assert (
        kept["record"]["metric"] == "loss" and kept["record"]["images"] == 32 and kept["record"]["dataset"] == "digits"
    )
    assert kept["trained_s"] > 0


@pytest.mark.parametrize(("old", "new", "named"), [
    ("steps = 3", "steps = 3\nlr = 0.5", "[train] lr"),
    ("channels = 8", "channels = 12", "[model] channels"),
    ("channels = 8", "channels = 8\nmultipliers = [1, 1]", "[model] multipliers"),
    ('name = "rf"', 'name = "rf"\ntime_mean = 0.5', "[method] time_mean"),
    ("[model]", '[dataset]\nname = "shapes"\n\n[model]', "[dataset] name"),
])  # fmt: skip
def test_a_run_of_another_recipe_is_refused(trained, tmp_path, old, new, named):
    place, measured = trained
    ran = run("repro", claim(tmp_path, measured, 0.0, change=(old, new)), place)
    assert ran.code == 4, ran.err
    assert "is no run of this recipe" in ran.err and named in ran.err


def test_what_changes_no_result_may_differ(trained, tmp_path):
    place, measured = trained
    change = ("steps = 3", "steps = 3\nkeep = 7\nsave_every = '2'\nseed = 5")
    assert run("repro", claim(tmp_path, measured, 0.0, change=change), place).code == 0


def test_a_run_that_has_not_finished_is_refused(trained, tmp_path):
    import shutil

    place, measured = trained
    half = shutil.copytree(place, tmp_path / "half")
    (half / "summary.json").unlink()
    ran = run("repro", claim(tmp_path, measured, 0.0), half)
    assert ran.code == 4 and "--resume" in ran.err


def test_a_claim_of_what_is_not_measured_is_refused(trained, tmp_path):
    place, measured = trained
    ran = run("repro", claim(tmp_path, measured, 0.0, change=('"loss"', '"loss[nothing]"')), place)
    assert ran.code == 2 and "loss[nothing]" in ran.err


@pytest.mark.parametrize(("metric", "words"), [
    ("nosuch[5nn]", "nosuch"), ("agreement[5nn]", "neighbors"), ("fd[nowhere]", "nowhere"),
])  # fmt: skip
def test_a_claim_that_no_measure_gives_is_refused_before_training(tmp_path, metric, words):
    path = claim(tmp_path, 1.0, 1.0, change=('"loss"', f'"{metric}"'))
    ran = run("repro", path, "--output", tmp_path / "run")
    assert ran.code == 2 and words in ran.err and not (tmp_path / "run").exists(), ran.err


@pytest.mark.parametrize(("args", "words"), [
    (("rf-mnist",), "claims no number"),
    (("rf-digit",), "rf-digits"),
    (("rf-digits", "x", "--seed", 1), "--seed is of training"),
    (("nowhere.toml",), "cannot be read"),
])  # fmt: skip
def test_wrong_wishes_are_refused_before_anything_is_trained(tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    ran = run("repro", *args)
    assert ran.code == 2 and words in ran.err and not list(tmp_path.iterdir())


def test_every_shipped_claim_is_given_by_repro_and_covers_its_seeds():
    for name, path in recipes.shipped().items():
        claim = recipes.resolve(recipes.read(path)).claim
        if claim is not None:
            assert claim.command == f"diffcli repro {name}"
            seeds = claim.seeds or ()
            assert all(abs(seed - claim.value) <= claim.tolerance for seed in seeds)
            if len(seeds) >= 3:  # the 95 % prediction interval of a fourth, by Student's t with 2 degrees of freedom
                assert claim.tolerance >= 4.303 * statistics.stdev(seeds) * math.sqrt(1 + 1 / 3)
