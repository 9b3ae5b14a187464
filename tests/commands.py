"""The command line in this process."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass

TINY = ["--steps", "4", "--batch-size", "8", "--channels", "8", "--multipliers", "1,2", "--log-every", "1"]
DIGITS = ["--dataset", "digits", "--size", "8"]
WORDS = "the quick brown fox jumps over the lazy dog\n"
SHORT = ["--dataset", "text", "--length", "16", "--width", "16", "--heads", "2", "--depth", "1", *TINY[:4], *TINY[-2:]]


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
