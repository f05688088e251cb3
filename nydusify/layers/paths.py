"""Paths inside an image, followed without ever leaving the root.

A path is a list of names (fs/tar/paths.py). `..` at the root stays there, and an absolute link
starts at the image's root, as in containerd.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence

from fs.format.errors import FormatError
from fs.format.tree import Node
from fs.tar.paths import PATH_MAX

_MAX_LINKS = 255


def shown(names: Sequence[bytes]) -> str:
    """A path as text for a message: on one line, and not too long."""
    text = ascii("/" + b"/".join(names).decode("utf-8", "surrogateescape"))[1:-1]
    return text if len(text) <= 200 else f"{text[:150]}…{text[-40:]}"


def lookup(root: Node, names: Sequence[bytes]) -> Node | None:
    """What lies at `names`, taken literally: no link is followed."""
    node = root
    for name in names:
        found = node.children.get(name)
        if found is None:
            return None
        node = found
    return node


def resolve(root: Node, names: Sequence[bytes], where: str) -> list[bytes]:
    """The real path of `names` below `root`, with all symlinks followed.

    From a name that does not exist on, the path is taken as written.
    """
    todo = list(reversed(names))
    trail = [root]
    real: list[bytes] = []
    links = 0
    while todo:
        name = todo.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            del real[-1:]
            if len(trail) > len(real) + 1:
                trail.pop()
            continue
        at = trail[-1] if len(trail) == len(real) + 1 else None
        child = at.children.get(name) if at else None
        if child is not None and stat.S_ISLNK(child.mode):
            links += 1
            if links > _MAX_LINKS:
                raise FormatError(f"too many symbolic links in {shown(names)}", where)
            if child.target.startswith(b"/"):
                del trail[1:], real[:]
            todo.extend(reversed(child.target.split(b"/")))
            continue
        real.append(name)
        if child is not None:
            trail.append(child)
    if sum(map(len, real)) + len(real) > PATH_MAX:
        raise FormatError(f"path is too long with its links followed: {shown(names)}", where)
    return real
