"""The paths that layers write, hostile or only careless, as lists of names."""

from __future__ import annotations

from fs.format.errors import FormatError

PATH_MAX = 4095
NAME_MAX = 255


def clean(path: bytes, where: str) -> list[bytes]:
    """The names in `path`, without ".", ".." and empty ones; [] for the root, where ".." stops.

    FormatError for what no Linux file system can hold.
    """
    if len(path) > PATH_MAX:
        raise FormatError(f"path of {len(path)} bytes, at most {PATH_MAX}", where)
    names: list[bytes] = []
    for name in path.split(b"/"):
        if name == b"..":
            del names[-1:]
        elif name not in (b"", b"."):
            if len(name) > NAME_MAX:
                raise FormatError(f"name of {len(name)} bytes, at most {NAME_MAX}", where)
            names.append(name)
    return names
