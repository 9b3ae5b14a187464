"""Commands under watch, on files that mean harm: what they did that they should not have, how long, and with how much memory."""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blows import CHANGES
from nursery import LOADED

FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "socket.connect", "exec", "compile", "import", "ctypes.dlopen")  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
SECONDS, MIB = 10.0, 768  # most that one command may take, and that a process may grow by


@dataclass(frozen=True)
class Hostile:
    """Files, made in an empty folder, and the command lines that meet them. fine: exit codes that are right."""

    name: str
    make: Callable[[Path], Sequence[Sequence[object]]]
    fine: frozenset[int] = frozenset({2, 3, 4})


@dataclass(frozen=True)
class Met:
    """What a command did. wrong: what it must not have done."""

    name: str
    argv: tuple[str, ...]
    code: int
    said: str
    seconds: float
    wrong: tuple[str, ...]


def meet(cases: Sequence[Hostile], folder: Path) -> list[Met]:
    """Each case in a folder of its own, one after the other in this process, which can do nothing else after."""
    for name in LOADED:
        with contextlib.suppress(ImportError):
            __import__(name)
    own = folder / "tmp"  # of torch, which writes there when it first comes to an optimizer
    own.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir, os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(own), str(own / "inductor")
    os.environ["XDG_CACHE_HOME"] = str(own)
    platform.processor()  # asks uname, once a process
    guard, met = Guard(str(own)), list[Met]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 4 * MIB * 2**20, resource.RLIM_INFINITY))
    for number, case in enumerate(cases):
        place = folder / str(number)
        (place / "in").mkdir(parents=True)
        for argv in case.make(place / "in"):
            met.append(watched(case, tuple(map(str, argv)), place, guard))
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
            if grown > MIB:
                met[-1] = Met(*(*vars(met[-1]).values(),)[:-1], wrong=(*met[-1].wrong, f"{grown:.0f} MiB more memory"))  # type: ignore[misc]
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return met


def watched(case: Hostile, argv: tuple[str, ...], place: Path, guard: Guard) -> Met:
    """One command, and what is wrong with what it did."""
    from diffcli.cli.app import main

    work = place / "work"
    work.mkdir(exist_ok=True)
    os.chdir(work)
    out, said, begun = Terminal(), io.StringIO(), time.process_time()
    with guard.inside(place), contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        code = main(list(argv))
    seconds, text, wrong = time.process_time() - begun, said.getvalue() + out.getvalue(), [*guard.heard]
    if code not in case.fine:
        wrong.append(f"exit code {code}")
    if code != 0 and sum(line.startswith("error: ") for line in text.splitlines()) != 1:
        wrong.append("not one line of an error")
    if any((ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0 or c in "\u202e\u2066" for c in text):
        wrong.append("a control character was printed")
    if list(place.rglob("canary")):
        wrong.append("the canary sang")
    if seconds > SECONDS:
        wrong.append(f"{seconds:.1f} s")
    return Met(case.name, argv, code, text, seconds, tuple(wrong))


class Terminal(io.StringIO):
    """Where results go, as a terminal that would obey them."""

    def isatty(self) -> bool:
        return True


class Guard:
    """Hears, through the audit events of Python, what a command must not do: run code, start processes, connect, write elsewhere."""

    def __init__(self, own: str = os.devnull) -> None:
        self.own = own  # may be written to, too
        self.place: str | None = None
        self.heard: list[str] = []
        sys.addaudithook(self.hear)

    @contextlib.contextmanager
    def inside(self, place: Path) -> Any:
        self.place, self.heard = str(place), []
        try:
            yield
        finally:
            self.place = None

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        place = self.place
        if place is None:
            return
        if event in FORBIDDEN[:7]:
            self.heard.append(f"{event} {args[:2]}"[:200])
        elif event == "import" and args[1] is not None and place in str(args[1]):
            self.heard.append(f"import of {args[1]}")
        elif (
            event in CHANGES
            or event in ("os.symlink", "os.link", "os.chmod")
            or (
                event == "open"
                and isinstance(args[2], int)
                and args[2] & WRITING
                and args[2] & os.O_TMPFILE != os.O_TMPFILE
            )
        ):
            self.outside(event, args[0])

    def outside(self, event: str, path: Any) -> None:
        """Note a change of what lies elsewhere. Names of descriptors, and of nothing, are none."""
        assert self.place is not None
        if isinstance(path, str | os.PathLike):
            where = os.path.abspath(os.fspath(path))
            if not where.startswith((self.place, self.own, os.devnull)):
                self.heard.append(f"{event} of {where}")


def told(met: Sequence[Met], into: Path) -> None:
    """Keep what was met, for the process that asked."""
    into.write_text(json.dumps([vars(one) for one in met]))
