"""One small vae that is trained once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from commands import DIGITS, TINY, run


@pytest.fixture(scope="session")
def vae_home(tmp_path_factory) -> Path:
    """A folder with run/, a vae trained for four steps on digits, and pictures/ of three colours."""
    folder = tmp_path_factory.mktemp("vae")
    ran = run("train", "vae", *DIGITS, *TINY, "--output", folder / "run")
    assert ran.code == 0, ran.err
    (folder / "pictures").mkdir()
    for k in range(3):
        Image.new("RGB", (20, 30), (100 * k,) * 3).save(folder / "pictures" / f"{k}.png")
    return folder


@pytest.fixture
def vae(vae_home, cli, tmp_path):
    """`diffcli sample` of a copy of the run, with the pictures beside it, into `drawn`."""
    shutil.copytree(vae_home, tmp_path, dirs_exist_ok=True)

    def sample(*argv: object, output: str = "drawn"):
        return cli("sample", "run", *argv, "--output", output)

    return sample
