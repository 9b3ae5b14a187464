"""What the C library does with memory that is freed on a CPU: back to the system, or kept for the next step."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
MOST = 2**30  # bytes


def keep() -> bool:
    """Keep it, for the rest of this process; whether the C library can.

    glibc maps pieces above 32 MB afresh, and gives back what is free at the end of the heap: the pages of a map of some MB
    are then zeroed by the system at each step, which may take as long as the convolution that fills them. Both thresholds
    must rise together. A process keeps what it needed most.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(MMAP_THRESHOLD, MOST)) and bool(mallopt(TRIM_THRESHOLD, MOST))
