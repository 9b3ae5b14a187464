"""What the tests share: one thread, the command line, and one small trained run of each method."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from commands import TINY, Ran, run

torch.set_num_threads(1)  # small tensors, and several tests at a time on a small machine


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """`diffcli ...` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a conditional rf and a conditional ddpm have been trained for four steps on digits."""
    folder = tmp_path_factory.mktemp("trained")
    before = os.getcwd()
    os.chdir(folder)
    try:
        for method in ("rf", "ddpm"):
            ran = run("train", method, "--cond", "label", *TINY, "--save-every", "2")
            assert ran.code == 0, ran.err
    finally:
        os.chdir(before)
    return folder
