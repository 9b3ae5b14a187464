"""Files that mean harm: no code of theirs runs, nothing outside is written, and time and memory are bounded."""

from __future__ import annotations

from pathlib import Path

import names
import pytest
import slots
from canary import Guard
from harm import GROUPS, Models, met

import model_folders
from commands import run


@pytest.fixture(scope="session")
def harmless(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A run with classes, a model folder of it, and one that reconstructs pictures."""
    folder = tmp_path_factory.mktemp("models")
    (one,) = (trained / "runs" / "rf").iterdir()
    assert run("export", one, folder / "model").code == 0
    return one, folder / "model", model_folders.folder(folder / "vae", "vae")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name in GROUPS[2:] else []) for name in GROUPS])  # fmt: skip
def test_what_means_harm_is_refused_and_does_none(name: str, harmless: Models, tmp_path: Path) -> None:
    found = met(name, harmless, tmp_path)
    wrong = [(one["name"], one["argv"], one["code"], one["wrong"], one["said"]) for one in found if one["wrong"]]
    assert wrong == [] and len(found) > 5
    assert names.odd(tmp_path) == []


def test_each_payload_sings_where_it_is_unpickled(tmp_path: Path) -> None:
    """The canary is alive: its silence elsewhere means something."""
    import pickle

    import numpy as np
    import torch

    made = slots.payloads(tmp_path / "canary")
    for name, load in (
        ("pickle", pickle.loads),
        ("torch.save", lambda data: torch.load(tmp_path / "x", weights_only=False)),
        ("npy", lambda data: np.load(tmp_path / "x", allow_pickle=True)),
    ):
        (tmp_path / "x").write_bytes(made[name])
        load(made[name])
        (tmp_path / "canary").unlink()


def test_the_guard_hears_what_must_not_be_done(tmp_path: Path) -> None:
    import subprocess

    guard, inside = Guard(), tmp_path / "inside"
    inside.mkdir()
    with guard.inside(inside):
        (inside / "a").write_text("fine")
        assert guard.heard == []
        (tmp_path / "b").write_text("outside")
        subprocess.run(["true"], check=True)
    heard = " ".join(guard.heard)
    assert "open of" in heard and "subprocess.Popen" in heard
    with guard.inside(inside):
        pass
    (tmp_path / "c").write_text("nobody listens")
    assert guard.heard == []


def test_the_reader_of_pages_hears_what_could_act() -> None:
    page = names.Page()
    page.feed('<p onclick="x">a</p><img src="https://x/y"><script>1</script><td>fine</td><img src="images/000.png">')
    assert page.odd == ["p", "p onclick", "img src", "script"]
