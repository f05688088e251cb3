"""How the C library hands memory to the threads of a worker, and takes it back.

By default it makes up to eight heaps a CPU, one for each thread that comes while the others
are taken. Chunks are received and decoded by threads that come and go, and what one has
freed in its heap is of no use to the next: about half of the 150 to 200 MiB that `./dev soak`
saw in a daemon after two minutes had been freed. Two heaps are enough for as many threads as
compute at once.

What is freed between pieces that are in use stays with the process until it is asked to give it
back. Of a busy worker's heaps that is half and more; of a converter's, a fourth of all it takes
once its layers are done. Having large buffers handed back at once (M_MMAP_THRESHOLD) would clear
and fault in each page of a chunk anew.
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


def give_back() -> None:
    """Free pages to the system, wherever they lie. Blocking, some milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
