"""From one process to many: a command that is to use several devices runs itself again under torch's own launcher."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence

from diffcli.errors import RankLost, UsageError, show

NEEDED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
ADDRESS = re.compile(r"[\w.\-]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")
MEETING = 120  # seconds that machines wait for each other
GRACE = 45  # seconds that the others have to save and end, when one has ended or a signal came


def worker(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one of several, as a launcher says: torchrun, or another one with DIFFCLI_WORKER=1.

    A RANK that a shell has left behind is not enough: a process that waits for others that never come helps nobody.
    """
    asked = "TORCHELASTIC_RUN_ID" in env or env.get("DIFFCLI_WORKER") == "1"
    return asked and all(name in env for name in NEEDED)


def stale(env: Mapping[str, str] = os.environ) -> str | None:
    """A line about variables of a launcher in whose hands this process is not."""
    if worker(env) or not (left := [name for name in ("RANK", "WORLD_SIZE") if name in env]):
        return None
    return f"{' and '.join(left)} in the environment are of no launcher that runs this; going on as one process"


def several(devices: int, nodes: int, rendezvous: str | None) -> bool:
    """Whether the flags ask for more than this process. UsageError where they do not go together."""
    if nodes > 1 and rendezvous is None:
        raise UsageError(
            f"--nodes {nodes} needs --rendezvous HOST:PORT, the address of the first machine, on all of them"
        )
    port = (rendezvous or ":1").rpartition(":")[2]
    if rendezvous is not None and not (ADDRESS.fullmatch(rendezvous) and 0 < int(port) < 2**16):
        raise UsageError(f"--rendezvous {show(rendezvous, 80)} is no HOST:PORT with a port of 1 to 65535")
    if rendezvous is not None and nodes == 1:
        raise UsageError("--rendezvous is where several machines meet; say how many with --nodes")
    return devices > 1 or nodes > 1


def launch(argv: Sequence[str], devices: int, nodes: int, rendezvous: str | None) -> int:
    """Run `diffcli ARGV` as `devices` processes here, of devices x nodes in all; the exit code of the whole.

    One that dies takes the others with it: they have GRACE seconds to end by themselves.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # what matters is said here, once
    import logging
    from tempfile import TemporaryDirectory

    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import get_args_parser, run

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    os.environ.setdefault("TORCHELASTIC_ERROR_FILE", os.devnull)
    logging.disable(logging.CRITICAL)
    place = ["--standalone"] if rendezvous is None else ["--rdzv-backend", "c10d", "--rdzv-endpoint", rendezvous]
    place += [] if rendezvous is None else ["--rdzv-id", "diffcli", "--rdzv-conf", f"join_timeout={MEETING}"]
    shape = ["--nnodes", str(nodes), "--nproc-per-node", str(devices), "--max-restarts", "0"]
    with TemporaryDirectory(prefix="diffcli-") as logs:
        parsed = get_args_parser().parse_args([*shape, *place, "--log-dir", logs, "-m", "diffcli", *argv])
        parsed.shutdown_timeout = GRACE
        try:
            run(parsed)
        except ChildFailedError as error:
            return verdict({rank: failure.exitcode for rank, failure in error.failures.items()})
        except SignalException as error:
            return 128 + int(error.sigval)
        except (RendezvousError, DistError) as error:
            raise RankLost(
                f"the {nodes} machines did not meet at {show(rendezvous, 80)} within {MEETING} s: {show(error, 120)}; start "
                "the same command on each, with the address of the first"
            ) from None
    return 0


def verdict(codes: Mapping[int, int]) -> int:
    """The exit code of a group, by those of its processes: the cause, not what followed from it.

    One that was killed says itself nothing, so it is said here.
    """
    own = [code for code in codes.values() if code > 0 and code != RankLost.code]
    if own:
        return own[0]
    killed = [(rank, -code) for rank, code in sorted(codes.items()) if code < 0 and code != -15]
    for rank, number in killed[:1]:
        print(
            f"error: process {rank} was killed by signal {number}; the others have ended; go on with --resume",
            file=sys.stderr,
        )
    return RankLost.code
