"""What a daemon serves, and how one inode number names an inode of one of many trees.

    FUSE inode = tree's number << 40 | nid      (numbers count from 1, none is used twice)
    FUSE inode 1, the root of the mount         a directory with every tree under its name

Most trees are images that somebody has mounted. Nothing else is needed to serve
a request, which is why a worker can be replaced at any time: file handles are
inodes too. `alone` is for a mount that shows one image directly at its root.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple, Protocol

import trio

from fs.cache.blob import Data
from fs.format.bootstrap import DirEntry, Inode
from fs.format.errors import FormatError, NotFoundError
from fs.image.tree import Image

ROOT = 1
_NID_BITS = 40
_NID_MASK = (1 << _NID_BITS) - 1
_NAME_MAX = 255
#: The tree `blobs`: decoded blobs as flat files, for a file system in the kernel.
BLOBS = (1 << 23) - 1
_ROOT_INODE = Inode(ROOT, ROOT, 0o40500, 2, 0, 0, 0, 0, 0, 0, False)


class NameTooLongError(NotFoundError):
    """No file can have such a name."""


class Tree(Protocol):
    """Files and directories by nid; raises Failure only. `fixed`: it never changes."""

    @property
    def root(self) -> int: ...
    @property
    def fixed(self) -> bool: ...
    @property
    def inode_count(self) -> int: ...
    @property
    def data_size(self) -> int: ...

    def inode(self, nid: int) -> Inode: ...
    def lookup(self, nid: int, name: bytes) -> int | None: ...
    def entries(self, nid: int, start: int) -> Iterator[DirEntry]: ...
    def readlink(self, nid: int) -> bytes: ...
    def xattrs(self, nid: int) -> dict[bytes, bytes]: ...
    async def read(self, nid: int, offset: int, length: int) -> Data: ...

    def read_now(self, nid: int, offset: int, length: int, buffer: memoryview) -> Data | None:
        """What `read` returns, if memory has it; valid until `buffer` is used again.

        None, and nothing is noted, when it would have to be waited for. `buffer` has room.
        """


class Entry(NamedTuple):
    name: bytes
    inode: int
    cookie: int


class Instances:
    """All trees. `alone` is the number of the only one, if that is to be the root itself."""

    def __init__(self, alone: int | None = None) -> None:
        self._alone = alone
        self._trees: dict[int, Tree] = {}
        self._names: dict[bytes, int] = {}
        self._lookups: dict[int, int] = {}
        self._changed = time.time_ns()
        #: Trees of which it matters when somebody closes a file.
        self.leaving: set[int] = set()
        #: Told when names have come or gone.
        self.on_change: Callable[[], None] = lambda: None
        #: Told the number of a tree that is gone.
        self.on_removal: Callable[[int], None] = lambda number: None

    def add_tree(self, number: int, name: bytes, tree: Tree) -> None:
        """Serve `tree` as `number` (1 or more), the same after every restart."""
        if number < 1 or number in self._trees or name in self._names:
            raise ValueError(f"tree {number} {name!r}")
        self._trees[number] = tree
        self._names[name] = number
        self._note_change()

    def remove_tree(self, number: int) -> None:
        """Forget a tree that the kernel needs no more."""
        del self._trees[number]
        self._lookups.pop(number, None)
        self.leaving.discard(number)
        self._names = {name: of for name, of in self._names.items() if of != number}
        self._note_change()
        self.on_removal(number)

    def has(self, number: int) -> bool:
        """Whether the tree is served."""
        return number in self._trees

    def _note_change(self) -> None:
        """The directory of all trees has other names: never twice the same time."""
        self._changed = max(self._changed + 1, time.time_ns())
        self.on_change()

    def resolve(self, inode: int) -> tuple[int, Tree, int]:
        """Number, tree and nid of a FUSE inode below the root; NotFoundError if it has none."""
        if inode == ROOT and self._alone is not None:
            tree = self._trees[self._alone]
            return self._alone, tree, tree.root
        number = inode >> _NID_BITS
        found = self._trees.get(number)
        if found is None:
            raise NotFoundError(f"inode {inode} is of no image")
        return number, found, inode & _NID_MASK

    def number_of(self, inode: int) -> int:
        return inode >> _NID_BITS

    def is_top(self, inode: int) -> bool:
        """Whether this is the directory of all trees."""
        return inode == ROOT and self._alone is None

    def inode(self, inode: int) -> Inode:
        if self.is_top(inode):
            seconds, nanoseconds = divmod(self._changed, 1_000_000_000)
            return _ROOT_INODE._replace(mtime=seconds, mtime_nsec=nanoseconds)
        _, tree, nid = self.resolve(inode)
        return tree.inode(nid)

    def is_fixed(self, inode: int) -> bool:
        """Whether names in this directory, and their absence, may be remembered for ever."""
        return not self.is_top(inode) and self.resolve(inode)[1].fixed

    def lookup(self, parent: int, name: bytes) -> int | None:
        """The FUSE inode of `name` in a directory; None if it has no such name.

        NameTooLongError for one that no directory can have.
        """
        if len(name) > _NAME_MAX:
            raise NameTooLongError(f"a name of {len(name)} bytes")
        if self.is_top(parent):
            number = self._names.get(name)
            if number is None:
                return None
            self._lookups[number] = self._lookups.get(number, 0) + 1
            return self.root_of(number)
        number, tree, nid = self.resolve(parent)
        found = tree.lookup(nid, name)
        return None if found is None else self.inode_number(number, tree, found)

    def entries(self, inode: int, start: int) -> Iterator[Entry]:
        """What comes after cookie `start` in a directory, without the dots."""
        if self.is_top(inode):
            for cookie, (name, number) in islice(
                enumerate(list(self._names.items()), 1), start, None
            ):
                yield Entry(name, self.root_of(number), cookie)
            return
        number, tree, nid = self.resolve(inode)
        for entry in tree.entries(nid, start):
            yield Entry(entry.name, self.inode_number(number, tree, entry.nid), entry.cookie)

    def parent(self, inode: int) -> int:
        if self.is_top(inode):
            return ROOT
        number, tree, nid = self.resolve(inode)
        if nid == tree.root:
            return ROOT
        above = tree.lookup(nid, b"..")
        return self.inode_number(number, tree, tree.root if above is None else above)

    @staticmethod
    def first_inode(number: int) -> int:
        """Where the FUSE inodes of a tree begin."""
        return number << _NID_BITS

    def root_of(self, number: int) -> int:
        tree = self._trees[number]
        return self.inode_number(number, tree, tree.root)

    def inode_number(self, number: int, tree: Tree, nid: int) -> int:
        """The FUSE inode of `nid`."""
        if number == self._alone and nid == tree.root:
            return ROOT
        if nid > _NID_MASK:
            raise FormatError(f"nid {nid} is too large")
        return number << _NID_BITS | nid

    def forget(self, inode: int, lookups: int) -> int | None:
        """The kernel has let go of `inode`: the number of the tree whose root it was, if all did.

        A predecessor's lookups are not known, so what it answered counts as forgotten.
        """
        number, nid = inode >> _NID_BITS, inode & _NID_MASK
        tree = self._trees.get(number)
        if tree is None or nid != tree.root:
            return None
        left = self._lookups.get(number, 0) - lookups
        self._lookups[number] = max(0, left)
        return number if left <= 0 else None

    def count_lookup(self, inode: int) -> None:
        """A listing that answers lookups has told the kernel of a tree's root."""
        number = inode >> _NID_BITS
        self._lookups[number] = self._lookups.get(number, 0) + 1

    @property
    def trees(self) -> list[Tree]:
        return list(self._trees.values())


class MountOptionsLike(Protocol):
    """The part of a mount's options that a driver looks at."""

    @property
    def nosuid(self) -> bool: ...


class Instance:
    """One image that somebody has mounted, or is about to.

    `number` names it in inodes and is never used again; `id` names its directory.
    `taken` once a client has the mount; `leaving` once it was unmounted and may
    still have users. `device` is the mount's "MAJOR:MINOR".
    """

    def __init__(
        self, number: int, source: str, mountpoint: str, options: MountOptionsLike, image: Image
    ) -> None:
        self.number = number
        self.id = f"{number:x}"
        self.source = source
        self.mountpoint = mountpoint
        self.options = options
        self.image = image
        self.driver = "fuse"
        self.reason = ""
        self.device = ""
        self.taken = False
        self.leaving = False
        self.abandoned = False
        self.last_error: str | None = None
        self.mounted_at = time.time()
        self.forgotten = trio.Event()
        """Set when the kernel has let go of the root of the instance's tree."""
        self.stirred = trio.Event()
        """Set when somebody may have left an instance that is leaving."""
        self.gone = trio.Event()
        """Set when it has been dropped."""


class Driver(Protocol):
    """One way in which an instance reaches the kernel."""

    name: str

    async def attach(self, instance: Instance) -> int:
        """A new detached mount of the instance, as a descriptor. Failure."""

    async def in_use(self, instance: Instance) -> bool:
        """Whether the kernel still needs the daemon for it; may take a second to find out."""

    def knows_all(self, instance: Instance) -> bool:
        """Whether `in_use` alone tells, at once and harming nobody, however it is mounted."""

    async def detach(self, instance: Instance) -> None:
        """Let go of what `attach` made: the instance is over."""
