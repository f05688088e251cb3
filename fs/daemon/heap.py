"""How the C library hands memory to the threads of a worker.

By default it makes up to eight heaps a CPU, one for each thread that comes while the others
are taken. Chunks are received and decoded by threads that come and go, and what one has
freed in its heap is of no use to the next: `./dev soak` saw a daemon of 150 to 200 MiB after
two minutes, most of it freed. Two heaps are enough for as many threads as compute at once.

Having large buffers handed back at once (M_MMAP_THRESHOLD) would cost more CPU than decoding
does: each page of a chunk is then cleared and faulted in anew.
"""

from __future__ import annotations

import ctypes

#: Of mallopt(3), as <malloc.h> has it.
_M_ARENA_MAX = -8
_HEAPS = 2


def limit_heaps() -> None:
    """Before any thread is started. Another C library than glibc knows nothing of it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _HEAPS)
