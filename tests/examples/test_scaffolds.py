"""What `diffcli plugins new` writes, installed as its author would: it works, is tested, and shows up everywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from diffcli import scaffold
from diffcli.plugin import KINDS
from sites import Site, site

SHORT = ["--steps", "4", "--batch-size", "8"]
SMALL = [*SHORT, "--channels", "8"]
# A training that uses the new part; sampled and evaluated below.
TRAINED = {
    "method": ["my-method", *SMALL, "--weighting", "truncated", "--cond", "label"],
    "model": ["rf", *SHORT, "--model", "my-model", "--depth", "1"],
    "schedule": ["rf", *SMALL, "--schedule", "my-schedule", "--shift", "2"],
    "sampler": ["rf", *SMALL, "--sampler", "my-sampler"],
    "dataset": ["rf", *SMALL, "--dataset", "my-dataset", "--cond", "label"],
    "extractor": ["rf", *SMALL],
    "logger": ["rf", *SMALL, "--loggers", "my-logger"],
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Site]:
    """(kind, site): a new plugin of a kind, installed, and a short run that uses it."""
    folder = tmp_path_factory.mktemp(request.param)
    source = scaffold.create(f"my-{request.param}", request.param, folder).folder
    found = site(folder, [source])
    found.ran("train", *TRAINED[request.param], "--output", "runs/new")
    return request.param, found


def test_it_is_listed_and_drawn_from(made):
    kind, found = made
    parts = json.loads(found.ran("plugins", "--json").splitlines()[-1])["parts"]
    (mine,) = (part for part in parts if part["distribution"] == f"my-{kind}")
    assert (mine["kind"], mine["name"], mine["version"]) == (kind, f"my-{kind}", "0.1.0")
    said = found.ran("sample", "runs/new", "--steps", "3", "--samples", "4", "--json").splitlines()[-1]
    assert json.loads(said)["samples"] == 4


def test_eval_and_bench_know_it(made):
    kind, found = made
    asked = ["--extractor", "my-extractor"] if kind == "extractor" else []
    found.ran("eval", "runs/new", "--metric", "loss,fd", "--samples", "40", "--images", "40", "--steps", "3", *asked)
    records = (found.work / "runs/new/evals.jsonl").read_text()
    assert ("fd[my-extractor]" in records) == (kind == "extractor")
    if kind == "sampler":
        assert "my-sampler" in found.ran("bench", "samplers", "--samplers", "my-sampler", "--schedules", "vp")
    if kind == "method":
        assert "my-method" in found.ran("bench", "train", "--methods", "my-method")


def test_its_own_tests_pass(made):
    kind, found = made
    source = shutil.copytree(found.packages.parent / f"my-{kind}" / "tests", found.work / "tests", dirs_exist_ok=True)
    done = found.python("-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", str(source))
    assert done.returncode == 0, done.stdout


def test_it_is_tested_where_it_stands(made):
    """Not installed, and named as the module that it is: my_method, whose plugin is my-method."""
    kind, found = made
    source = found.packages.parent / f"my-{kind}"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"DIFFCLI_PLUGINS": f"my_{kind}"}
    asked = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "-k", "TestPlugin", "tests"]
    done = subprocess.run(asked, cwd=source, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_it_passes_the_check(made):
    kind, found = made
    found.ran("plugins", "check", f"my-{kind}")
