"""What becomes of memory that a command frees: it stays with the process, which soon takes as much again."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # parameters of mallopt(3)


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, and give it out again, for as long as this process runs.

    glibc hands large blocks back to the system when they are freed, and the system clears every page when it gives them
    out anew: a third of the time of a search at 224 x 224. A fifth more memory is held for that, as blocks of different
    sizes leave gaps. With another C library nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(MMAP_MAX, 0)  # no block is one of its own, which could only go as a whole
    mallopt(TRIM_THRESHOLD, -1)  # nor does the end of the heap go
