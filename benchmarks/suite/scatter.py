"""Reads the regular files below a directory, shuffled, and says when each tenth was read.

Runs alone, with the standard library. Prints the share and the moment, in seconds of
CLOCK_MONOTONIC; the order depends on the names only.
"""

import os
import random
import stat
import sys
import time

_SHARES = 20


def main(top: str) -> None:
    sizes = {}
    for directory, _, names in os.walk(top):
        for name in names:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode):
                sizes[path] = status.st_size
    order = sorted(sizes)
    random.Random(1).shuffle(order)
    whole, read, share = sum(sizes.values()), 0, 1
    for path in order:
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
        read += sizes[path]
        while share <= _SHARES and read * _SHARES >= share * whole:
            print(f"{share / _SHARES:.2f} {time.monotonic():.6f}")
            share += 1


main(sys.argv[1])
