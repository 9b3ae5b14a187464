"""Commands in processes of their own that begin at once: torch is loaded already in the process they are forked from."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # of all processes here: another number of threads gives other bits, and costs more

LOADED = [
    "diffcli.cli.app", "diffcli.cli.train", "diffcli.engine.train", "diffcli.engine.repro", "diffcli_vision.unet",
    "diffcli_vision.digits", "diffcli_vision.folder", "diffcli_vision.text", "diffcli_rf.method", "diffcli_mdlm.method",
    "diffcli_mdlm.network", "matplotlib.figure", "matplotlib.pyplot", "torch.optim", "rich.progress",
]  # fmt: skip
PATIENCE = 600.0  # seconds that no command of a small run may take, on a machine that is busy with other things

Setup = tuple[Callable[..., None], Mapping[str, Any]]  # what a process does to itself before the command, and with what


class Child:
    """`diffcli ...` in a folder, as a process; what it says to stdout and stderr stands in the file `said`."""

    def __init__(self, argv: tuple[str, ...], folder: Path, setup: Setup | None = None):
        self.said = folder / f"said-{time.monotonic_ns()}.txt"
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(LOADED)
        self.process: ForkServerProcess = context.Process(
            target=command, args=(argv, folder, self.said, setup), daemon=True
        )
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def kill(self, number: int) -> None:
        """Send a signal; one that ended already hears nothing."""
        if self.process.exitcode is None:
            os.kill(self.pid, number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """The exit code, minus the signal for one that died of it. TimeoutError where it hangs; it is killed then."""
        self.process.join(seconds)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"still there after {seconds:.0f} s: {self.text()}")
        return code

    @property
    def alive(self) -> bool:
        return self.process.exitcode is None

    def text(self) -> str:
        return self.said.read_text(encoding="utf-8", errors="replace") if self.said.exists() else ""


def diffcli(folder: Path, *argv: object, setup: Setup | None = None) -> Child:
    """Begin a command in a folder."""
    return Child(tuple(map(str, argv)), folder, setup)


def command(argv: tuple[str, ...], folder: Path, said: Path, setup: Setup | None) -> None:
    """What the forked process does."""
    import torch

    from diffcli.cli.app import main

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that puts the harness behind makes it ignored
    os.chdir(folder)
    out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for fd in (1, 2):
        os.dup2(out, fd)
    os.close(out)
    sys.argv = ["diffcli", *argv]
    if setup is not None:
        setup[0](**setup[1])
    sys.exit(main(argv))
