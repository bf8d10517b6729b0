"""The C library's allocator, told to keep what it is given back."""

import ctypes
import platform

# Names and numbers from glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8
LARGEST_MMAP_THRESHOLD = 32 * 2**20
KEEP = 2**31 - 1


def keep_freed_memory() -> None:
    """Activations freed by one step are there for the next; nothing happens where the C library is not glibc.

    Otherwise every inner step hands gigabytes back to the system and faults them in again page by page, which took a
    fifth of an fp32 step. The process holds on to its peak until it ends.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
    libc.mallopt(M_TRIM_THRESHOLD, KEEP)
    libc.mallopt(M_ARENA_MAX, 1)  # lanes share one heap, or each would hold on to a peak of its own
    libc.mallopt(M_TOP_PAD, 64 * 2**20)
