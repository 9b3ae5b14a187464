"""--devices, --nodes and --rendezvous: a command as one process, or as many that work as one."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from diffcli.cli import output
from diffcli.cli.flags import extra
from diffcli.engine.launch import launch, several, stale, worker

given: ContextVar[list[str]] = ContextVar("given")  # the words of the command, as they were typed


@dataclass(frozen=True)
class Place:
    """Where a command is to run; argv: its words, which the others are started with."""

    argv: list[str]
    devices: int = 1
    nodes: int = 1
    rendezvous: str | None = None

    @property
    def count(self) -> int:
        """Processes in all."""
        return self.devices * self.nodes


def extras() -> list[inspect.Parameter]:
    """The flags, for a command that several devices can work on."""
    return [
        extra("devices", int, 1, "Processes on this machine, one a device.", min=1, max=1024),
        extra("nodes", int, 1, "Machines, on each of which the same command is started.", min=1, max=100_000),
        extra("rendezvous", str | None, None, "Where machines meet: HOST:PORT of the first.", metavar="<host:port>"),
    ]


def place(devices: int = 1, nodes: int = 1, rendezvous: str | None = None, **_: Any) -> Place:
    """What the flags say. UsageError where they do not go together."""
    several(devices, nodes, rendezvous)
    return Place(given.get(), devices, nodes, rendezvous)


def run(where: Place, work: Callable[[Any], None]) -> None:
    """Do the work, told the world it is done in; or start the processes that do, and end as they end.

    The first process speaks; of several that fail, the one that failed first.
    """
    if not worker() and several(where.devices, where.nodes, where.rendezvous):
        raise SystemExit(launch(where.argv, where.devices, where.nodes, where.rendezvous))
    if line := stale():
        output.say(f"note: {line}")
    from diffcli.engine.ranks import ALONE, joined

    world, streams = ALONE, (sys.stdout, sys.stderr)
    try:
        with joined() as world:
            if not world.first:
                sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # as long as the process lives
            work(world)
    except BaseException as error:
        loud = world.blamed()
        sys.stdout, sys.stderr = streams
        if loud:
            raise
        from diffcli.cli.app import verdict

        raise SystemExit(verdict(error)[0]) from error
    sys.stdout, sys.stderr = streams
