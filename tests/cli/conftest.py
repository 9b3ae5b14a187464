"""Small runs of masked diffusion, and the flags that make them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from commands import DIGITS, SHORT, TINY, WORDS, run


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    """A conditional run on whole digits, one on digits that miss half, and one on a text."""
    folder = tmp_path_factory.mktemp("mdlm")
    (folder / "words.txt").write_text(WORDS * 60)
    for name, args in {
        "whole": [*DIGITS, *TINY, "--cond", "label"],
        "ambient": [*DIGITS, *TINY, "--missing", "0.5", "--sample-every", "2"],
        "text": [*SHORT, "--path", folder / "words.txt"],
    }.items():
        ran = run("train", "mdlm", *args, "--output", folder / name)
        assert ran.code == 0, ran.err
    return folder


@pytest.fixture
def made(runs: Path, tmp_path: Path) -> Path:
    """A copy of them."""
    return Path(shutil.copytree(runs, tmp_path / "made"))
