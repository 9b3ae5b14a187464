"""Memory that is kept costs no page faults when it is asked for again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from diffcli import recipe as recipes
from diffcli.engine import memory
from diffcli.engine.job import prepare
from diffcli.errors import EnvironmentProblem

# In a process of its own: what the C library is told holds for the rest of it. MB are touched page by page.
FAULTS = """
import resource, sys
from diffcli.engine import memory
if sys.argv[1] == "keep":
    assert memory.keep()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        piece = bytes(b"x") * 2**26
        del piece
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_kept_memory_is_not_asked_of_the_system_again():
    """4 pieces of 64 MiB are 65,536 pages of 4 KiB, or 128 of 2 MiB where the system has such; kept ones are there."""
    given_back, kept = faults("not"), faults("keep")
    assert given_back >= 128 and kept < given_back / 10


def test_where_it_cannot_be_kept_the_option_is_refused(monkeypatch):
    """Another C library has no mallopt: an option that would do nothing is no option."""
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.keep() is False
    with pytest.raises(EnvironmentProblem, match="no mallopt"):
        prepare(recipes.resolve({"method": {"name": "rf"}, "train": {"steps": 1, "keep_memory": True}}))
