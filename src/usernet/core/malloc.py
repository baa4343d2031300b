"""Keep large buffers in the process: the C library's malloc, told not to give memory back (mallopt(3)).

Packets of 64 KiB are allocated and freed thousands of times a second. By default glibc returns such memory to the
kernel at once, and each page of it is faulted in anew: three to five times the cost of all else on the receive path.
The command line and the benchmarks tune malloc; a program that embeds a stack decides for itself.
"""

from __future__ import annotations

import ctypes
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_TOP_PAD: Final = -2
M_MMAP_THRESHOLD: Final = -3

KEEP: Final = 1 << 30
"""Bytes of free memory at the heap's end that are kept."""

TOP_PAD: Final = 64 << 20
"""Bytes by which the heap grows at a time."""


def tune_malloc() -> bool:
    """Have malloc keep what it has, for the whole process. False where the C library has no mallopt (musl, macOS)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    done = [mallopt(M_MMAP_THRESHOLD, KEEP), mallopt(M_TRIM_THRESHOLD, KEEP), mallopt(M_TOP_PAD, TOP_PAD)]
    return all(done)
