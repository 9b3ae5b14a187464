"""examples/diffcli-toy, as a stranger's distribution: what it brings is there once it is installed, and gone without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sites import ROOT, Site, site

pytestmark = pytest.mark.slow  # it is installed as a stranger would, and trained

TOY = ROOT / "examples" / "diffcli-toy"
SHORT = ["--steps", "4", "--batch-size", "8", "--channels", "8"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The toy, installed, and a run of its method."""
    made = site(tmp_path_factory.mktemp("toy"), [TOY])
    assert made.ran("train", "uncertain-flow", *SHORT, "--output", "runs/toy").splitlines()[-1] == "runs/toy"
    return made


def test_its_parts_are_listed_with_distribution_and_version(toy):
    found = json.loads(toy.ran("plugins", "--json").splitlines()[-1])
    brought = {(part["kind"], part["name"], part["version"]) for part in found["parts"] if part["distribution"] == "diffcli-toy"}  # fmt: skip
    names = [("method", "uncertain-flow"), ("sampler", "ab3"), ("dataset", "lissajous")]
    assert brought == {(kind, name, "0.3.0") for kind, name in names}
    assert found["broken"] == []


def test_why_says_who_brought_a_part(toy):
    assert "From plugin toyflow of diffcli-toy 0.3.0, for gaussian processes" in toy.ran("plugins", "why", "ab3")
    loads = "plugin toyflow of diffcli-toy 0.3.0: loads; brings method uncertain-flow, sampler ab3, dataset lissajous"
    tries = "diffcli plugins check toyflow tries what it brings"
    assert toy.ran("plugins", "why", "toyflow") == f"{loads}; {tries}.\n"


def test_its_run_is_drawn_by_its_own_sampler_and_by_ours(toy):
    assert (toy.work / "runs/toy/samples/final-uncertainty.png").is_file()
    for sampler, given, nfe in (("ab3", [], 6), ("heun", ["--sampler", "heun"], 7)):
        said = toy.ran("sample", "runs/toy", *given, "--steps", "4", "--samples", "4", "--json")
        profile = json.loads(said.splitlines()[-1])
        assert (profile["sampler"]["name"], profile["nfe"]) == (sampler, nfe)
        assert Path(toy.work, said.splitlines()[-2], "grid.png").is_file()


@pytest.mark.slow
def test_its_sampler_draws_from_our_methods_and_its_data_train_them(toy):
    toy.ran("train", "ddpm", "--dataset", "lissajous", "--cond", "label", *SHORT, "--output", "runs/ddpm")
    asked = ["--sampler", "ab3", "--steps", "3", "--label", "1:3", "--guidance-scale", "2", "--samples", "2"]
    assert json.loads(toy.ran("sample", "runs/ddpm", *asked, "--json").splitlines()[-1])["nfe"] == 10


def test_its_checkpoint_loads_in_python(toy):
    code = "import diffcli; m = diffcli.load('runs/toy'); print(type(m.method).__module__, tuple(m.sample(2, steps=2).shape))"
    done = toy.python("-c", code)
    assert done.stdout == "toyflow.method (2, 1, 14, 14)\n", done.stderr


def test_its_picture_is_drawn_on_demand(toy):
    assert toy.ran("eval", "runs/toy", "--plot", "uncertainty", "--images", "50").splitlines()[-1] == "runs/toy/plots/uncertainty.png"  # fmt: skip


@pytest.mark.parametrize("command", [["sample", "runs/toy"], ["eval", "runs/toy"], ["train", "uncertain-flow"]])
def test_without_it_one_line_says_what_is_missing(toy, command):
    done = toy.diffcli(*command, without=True)
    assert done.returncode in (2, 4)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "no method named 'uncertain-flow'" in line
    assert (toy.work / "runs/toy/recipe.toml").is_file()


@pytest.mark.slow
def test_without_its_sampler_a_run_of_ours_says_so(toy):
    toy.ran("train", "rf", "--sampler", "ab3", *SHORT, "--output", "runs/rf")
    done = toy.diffcli("sample", "runs/rf", without=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "no sampler named 'ab3'" in done.stderr


@pytest.mark.slow
def test_its_own_tests_pass(toy):
    done = toy.python("-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", str(TOY))
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_it_passes_the_check(toy):
    toy.ran("plugins", "check", "toyflow")
