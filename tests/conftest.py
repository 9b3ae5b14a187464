"""What the tests share: the command line in this process, and one small trained run."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # small tensors, and several tests at a time on a small machine

TINY = ["--steps", "4", "--batch-size", "8", "--channels", "8", "--multipliers", "1,2", "--log-every", "1"]


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out.strip().splitlines()[-1])


def run(*argv: object) -> Ran:
    """The command line in this process: the exit code, stdout and stderr."""
    from diffcli.cli.app import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(a) for a in argv])
    return Ran(code, out.getvalue(), err.getvalue())


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
