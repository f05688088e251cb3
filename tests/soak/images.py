"""Images whose every byte can be told, so that whoever reads knows what is right."""

from __future__ import annotations

import io
import random
import tarfile

MIB = 1 << 20
#: A few large files, and many small ones that share batches.
_LARGE, _SMALL = 12, 800


def sizes(image: str) -> dict[str, int]:
    """Path → size of an image's own files."""
    drawn = random.Random(image)
    large = {f"soak/large/{n}": drawn.randrange(MIB // 2, 3 * MIB) for n in range(_LARGE)}
    small = {f"soak/small/{n % 20}/{n}": drawn.randrange(1, 16 << 10) for n in range(_SMALL)}
    return large | small


def content(image: str, path: str, size: int) -> bytes:
    """The bytes of a file: half of them compress well."""
    drawn = random.Random(f"{image} {path}")
    half = drawn.randbytes(min(size, 128 << 10) // 2 + 1)
    return (half + bytes(len(half))) * (size // (2 * len(half)) + 1)


def layer(image: str) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, size in sizes(image).items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode, entry.mtime = size, 0o644, 1_700_000_000
            tar.addfile(entry, io.BytesIO(content(image, path, size)[:size]))
    return raw.getvalue()
