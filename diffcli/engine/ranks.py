"""Processes that work as one: who they are, what they tell each other, and how they end.

A process that is alone is a world of one, in which every call here is free.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from diffcli.engine.files import alive
from diffcli.engine.launch import MEETING, NEEDED, worker
from diffcli.errors import EnvironmentProblem, RankLost, show

T = TypeVar("T")
CPU = torch.device("cpu")
ANSWER = timedelta(seconds=120)  # how long what others send is waited for
DONE, FAILED = b"done", b"failed"
DEATH = 1  # PR_SET_PDEATHSIG: the signal that a process gets when the one that started it dies
LOCATION = re.compile(r"^\[\S+:\d+\] ")  # in the source of torch
LOST = ("gloo", "connection closed", "connection reset", "nccl", "timed out", "broken pipe", "socket")


@dataclass(frozen=True)
class World:
    """The processes of a job, of which this is one.

    local: its number on this machine; store: what all can read; leader: the first process, if it is on this machine.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    store: Any = None
    leader: int | None = None
    calls: Iterator[int] = field(default_factory=count)

    @property
    def first(self) -> bool:
        """Whether it is this one that writes and speaks."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This process's rows of a batch: neighbours, as many as of any other, or one more."""
        return rows.tensor_split(self.size)[self.rank]

    def sum(self, values: Tensor) -> Tensor:
        """The sums over all processes, the same bits on each; they travel by the network of the device they are on."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def agreed(self, signal: int | None, wire: torch.device = CPU) -> int | None:
        """The signal that any process has heard, the higher of two: all stop at the same step, or none."""
        if self.size == 1:
            return signal
        heard = torch.tensor(signal or 0, device=wire)
        dist.all_reduce(heard, dist.ReduceOp.MAX)
        return int(heard) or None

    def gathered(self, value: T) -> list[T]:
        """What each process has, in the order of ranks, on all of them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def rows(self, share: Tensor) -> Tensor:
        """All rows of which each process has a share, where this one's lie."""
        return share if self.size == 1 else torch.cat(self.gathered(share.cpu())).to(share.device)

    def told(self, value: T) -> T:
        """What the first process has."""
        if self.size == 1:
            return value
        said = [value]
        dist.broadcast_object_list(said, src=0)
        return said[0]

    def copied(self, tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """The first process's tensors, one at a time, on the CPU of each."""
        if self.size == 1:
            return dict(tensors or {})
        about = self.told(None if tensors is None else {n: (t.shape, t.dtype) for n, t in tensors.items()})
        found = {}
        for name, (shape, dtype) in (about or {}).items():
            t = torch.empty(shape, dtype=dtype) if tensors is None else tensors[name].cpu().contiguous()
            dist.broadcast(t, src=0)
            found[name] = t
        return found

    def alone(self, work: Callable[[], T]) -> T | None:
        """The first process works, as long as it takes, and the others wait. Its result there, None elsewhere."""
        if self.size == 1:
            return work()
        return self.before(f"alone-{next(self.calls)}", self.first, work)

    def in_turn(self, work: Callable[[], T]) -> T:
        """Work that may download: by one process of each machine first, then by the others, which find it done."""
        if self.size == 1:
            return work()
        name = f"turn-{next(self.calls)}-{os.environ.get('GROUP_RANK', '0')}"
        done = self.before(name, self.local == 0, work)
        return cast(T, done) if self.local == 0 else work()

    def before(self, name: str, mine: bool, work: Callable[[], T]) -> T | None:
        """The work, if it is mine; else None, when it is done. RankLost where it never will be."""
        if mine:
            try:
                result = work()
            except BaseException:
                self.store.set(name, FAILED)
                raise
            self.store.set(name, DONE)
            return result
        pause, lost = 0.001, f"process {self.rank} lost the one it waited for; go on with --resume"
        try:
            while not self.store.check([name]):  # not in one long call: signals are heard between short ones
                if self.leader is not None and not alive(self.leader):
                    raise RankLost(lost)
                time.sleep(pause)
                pause = min(0.2, 2 * pause)
            failed = self.store.get(name) == FAILED
        except (RuntimeError, dist.DistError):  # the store was the first process's own
            raise RankLost(lost) from None
        if failed:
            raise RankLost(f"process {self.rank} waited for one that failed; go on with --resume")
        return None

    def blamed(self) -> bool:
        """Whether this is the first process to fail: it says why, and the others keep quiet."""
        try:
            return self.size == 1 or self.store.add("failed", 1) == 1
        except (RuntimeError, dist.DistError):
            return self.first


ALONE = World()


@contextmanager
def joined() -> Iterator[World]:
    """The world that a launcher has started this process in, left again at the end; a world of one without a launcher.

    RankLost where the others are gone or never come.
    """
    if not worker():
        yield ALONE
        return
    bind()
    rank, local, size = (int(os.environ[name]) for name in NEEDED[:3])
    try:
        store, _, _ = next(dist.rendezvous("env://", rank, size, timeout=timedelta(seconds=MEETING)))
        cuda = torch.cuda.is_available()
        if cuda and local < torch.cuda.device_count():
            torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(
            backend, store=dist.PrefixStore("torch", store), rank=rank, world_size=size, timeout=ANSWER
        )
    except (RuntimeError, ValueError, dist.DistError) as error:
        raise RankLost(
            f"process {rank} of {size} did not find the others at {show(os.environ['MASTER_ADDR'], 80)}: {show(error, 120)}; "
            "start all of them, or unset RANK and TORCHELASTIC_RUN_ID where this is one process"
        ) from None
    here = [(os.getpid(), os.uname().nodename, namespace())]
    first = list(here)
    dist.broadcast_object_list(first, src=0)
    leader = first[0][0] if first[0][1:] == here[0][1:] else None
    world = World(rank, size, local, dist.PrefixStore("diffcli", store), leader)
    try:
        yield world
    except (RuntimeError, dist.DistError) as error:
        if isinstance(error, dist.DistError) or any(word in str(error).casefold() for word in LOST):
            why = show(LOCATION.sub("", str(error)).partition(". ")[0], 120)
            raise RankLost(f"process {rank} lost the others: {why}; go on with --resume") from error
        raise
    dist.barrier()
    gc.collect()  # what still holds the group would make its end wait: 6 of 16 runs hung so
    dist.destroy_process_group()


def namespace() -> str:
    """Of process numbers: in another container of one machine they count other processes."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def bind() -> None:
    """Die with the launcher, where the system can see to it: nothing is left behind that nobody waits for."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(DEATH, signal.SIGTERM)
        if os.getppid() != parent:
            raise EnvironmentProblem("the launcher of this process is gone; start it again")
