"""A program of many threads that all read from one file at once and know what they should see.

    python -m tests.scale.readers FILE MIB THREADS READS SEED

FILE holds LargeFile(MIB, NOISE). Ends with 0 when every read gave the right bytes.
"""

from __future__ import annotations

import os
import random
import sys
import threading

from tests.scale.layers import LargeFile

NOISE = 512 << 10
_LONGEST = 128 << 10


def main(path: str, *numbers: str) -> int:
    count, threads, reads, seed = map(int, numbers)
    expected = LargeFile(count, NOISE)
    start = threading.Barrier(threads)
    wrong: list[str] = []

    def read(number: int) -> None:
        places = random.Random(seed * threads + number)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            start.wait()
            for _ in range(reads):
                offset, length = places.randrange(expected.size), places.randrange(1, _LONGEST)
                if os.pread(descriptor, length, offset) != expected.read(offset, length):
                    wrong.append(f"{length} bytes at {offset}")
        except (OSError, threading.BrokenBarrierError) as error:
            wrong.append(str(error))
        finally:
            os.close(descriptor)

    threading.stack_size(256 << 10)
    running = [threading.Thread(target=read, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    print(*wrong[:10], sep="\n", file=sys.stderr)
    return len(wrong) != 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
