"""Which images a daemon serves, and how one inode number names an inode of one of them.

    FUSE inode = instance << 40 | nid          (instance counts from 1)
    FUSE inode 1, the root of the mount        = the root of the only instance

Nothing else is needed to serve a request, which is why a worker can be replaced
at any time: file handles are inodes too.
"""

from __future__ import annotations

from fs.format.errors import FormatError, NotFoundError
from fs.image import Image

ROOT = 1
_NID_BITS = 40
_NID_MASK = (1 << _NID_BITS) - 1


class Instances:
    def __init__(self) -> None:
        self._images: dict[int, Image] = {}

    def add(self, number: int, image: Image) -> None:
        """Serve `image` as instance `number` (1 or more), the same after every restart."""
        if number < 1 or number in self._images:
            raise ValueError(f"instance {number}")
        self._images[number] = image

    def resolve(self, inode: int) -> tuple[int, Image, int]:
        """Instance number, image and nid of a FUSE inode; NotFoundError if it has none."""
        if inode == ROOT:
            number, image = next(iter(self._images.items()))
            return number, image, image.bootstrap.root
        number = inode >> _NID_BITS
        image_or_none = self._images.get(number)
        if image_or_none is None:
            raise NotFoundError(f"inode {inode} is of no instance")
        return number, image_or_none, inode & _NID_MASK

    def inode_number(self, number: int, image: Image, nid: int) -> int:
        """The FUSE inode of `nid`."""
        if nid == image.bootstrap.root:
            return ROOT
        if nid > _NID_MASK:
            raise FormatError(f"nid {nid} is too large", image.bootstrap.name)
        return number << _NID_BITS | nid

    @property
    def images(self) -> list[Image]:
        return list(self._images.values())
