"""The tree over FUSE: kernel requests in, calls of `Image` out, no state in between.

An image never changes, so the kernel may keep what it learns: entries,
attributes, names that do not exist, pages, links. Only the directory of all
trees changes; a name that leaves it is taken back from the kernel.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import pyfuse3
from pyfuse3 import EntryAttributes, FUSEError, RequestContext

from fs.cache.blob import Data
from fs.drivers.errnos import errno_boundary
from fs.drivers.flat import instance_of
from fs.drivers.instances import BLOBS, ROOT, Instances
from fs.format.bootstrap import Inode
from fs.image import unmap_pages

_FOREVER = 10.0 * 365 * 86400
_BLOCK = 4096
_ATTRIBUTES_KEPT = 4096
#: Inodes that are looked at between two times that pages of bootstraps are let go.
_UNMAPPING = 16384
#: Cookies 1 and 2 are those of "." and "..", the image's own follow.
_DOTS = 2


class TreeOperations(pyfuse3.Operations):
    """`on_init` is called once, when libfuse has seen its INIT request.

    `on_forget` gets the number of each tree whose root, or whose flat blob, the kernel
    has let go.
    """

    def __init__(
        self,
        instances: Instances,
        on_init: Callable[[], None],
        on_forget: Callable[[int], None] = lambda number: None,
        on_close: Callable[[int], None] = lambda number: None,
    ) -> None:
        super().__init__()
        self._instances = instances
        self._on_init = on_init
        self._on_forget = on_forget
        self._on_close = on_close
        self._blob_files = instances.first_inode(BLOBS)
        # The attributes cost an allocation each; a listing is often followed by lookups.
        self._made = 0
        self._kept = lru_cache(_ATTRIBUTES_KEPT)(self._make_attributes)

    def init(self) -> None:
        self._on_init()

    @errno_boundary
    async def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        found = self._instances.lookup(parent, name)
        if found is not None:
            return self._attributes(found)
        if not self._instances.is_fixed(parent):
            raise FUSEError(errno.ENOENT)
        return _negative_entry()

    @errno_boundary
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self._attributes(inode)

    def _attributes(self, inode: int) -> EntryAttributes:
        """What is known for ever is made once; the directory of all trees is not."""
        return self._make_attributes(inode) if inode == ROOT else self._kept(inode)

    def _make_attributes(self, inode: int) -> EntryAttributes:
        self._made += 1
        if self._made % _UNMAPPING == 0:
            unmap_pages()
        return _attributes(inode, self._instances.inode(inode))

    @errno_boundary
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        _, tree, nid = self._instances.resolve(inode)
        return tree.readlink(nid)

    @errno_boundary
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> pyfuse3.FileInfo:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise FUSEError(errno.EROFS)
        return pyfuse3.FileInfo(fh=inode, keep_cache=True)

    # pyfuse3 takes any contiguous buffer, its annotations only bytes.
    @errno_boundary
    async def read(  # type: ignore[override]
        self, fh: int, off: int, size: int
    ) -> Data:
        _, tree, nid = self._instances.resolve(fh)
        return await tree.read(nid, off, size)

    async def release(self, fh: int) -> None:
        number = self._instances.number_of(fh)
        if number in self._instances.leaving:
            self._on_close(number)

    @errno_boundary
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return inode

    @errno_boundary
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        top = self._instances.is_top(fh)
        for name, inode, cookie in self._listing(fh, start_id):
            if not pyfuse3.readdir_reply(token, name, self._attributes(inode), cookie):
                return
            if top and cookie > _DOTS:
                self._instances.count_lookup(inode)

    def _listing(self, inode: int, start: int) -> Iterator[tuple[bytes, int, int]]:
        """Name, inode and cookie of what comes after cookie `start` in a directory."""
        if start < 1:
            yield b".", inode, 1
        if start < _DOTS:
            yield b"..", self._instances.parent(inode), _DOTS
        for entry in self._instances.entries(inode, max(0, start - _DOTS)):
            yield entry.name, entry.inode, entry.cookie + _DOTS

    async def releasedir(self, fh: int) -> None:
        await self.release(fh)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for inode, lookups in inode_list:
            number = self._let_go(inode, lookups)
            if number is not None:
                self._on_forget(number)

    def _let_go(self, inode: int, lookups: int) -> int | None:
        """The number of the instance that the kernel needs less, perhaps no more."""
        if inode < self._blob_files:
            return self._instances.forget(inode, lookups)
        return instance_of(inode - self._blob_files)

    # ENOSYS would make the kernel stop asking, for images to come as well.
    @errno_boundary
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        value = self._xattrs(inode).get(name)
        if value is None:
            raise FUSEError(errno.ENODATA)
        return value

    @errno_boundary
    async def listxattr(self, inode: int, ctx: RequestContext) -> list[bytes]:
        return list(self._xattrs(inode))

    def _xattrs(self, inode: int) -> dict[bytes, bytes]:
        if self._instances.is_top(inode):
            return {}
        _, tree, nid = self._instances.resolve(inode)
        return tree.xattrs(nid) if tree.inode(nid).has_xattrs else {}

    @errno_boundary
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        trees = self._instances.trees
        answer = pyfuse3.StatvfsData()
        answer.f_bsize = answer.f_frsize = _BLOCK
        answer.f_blocks = sum(tree.data_size for tree in trees) // _BLOCK
        answer.f_bfree = answer.f_bavail = 0
        answer.f_files = sum(tree.inode_count for tree in trees)
        answer.f_ffree = answer.f_favail = 0
        answer.f_namemax = 255
        return answer


def _attributes(number: int, inode: Inode) -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = number
    entry.generation = 0
    entry.entry_timeout = entry.attr_timeout = _FOREVER
    entry.st_mode = inode.mode
    entry.st_nlink = inode.nlink
    entry.st_uid = inode.uid
    entry.st_gid = inode.gid
    entry.st_rdev = inode.rdev
    entry.st_size = inode.size
    entry.st_blksize = _BLOCK
    entry.st_blocks = 0 if stat.S_ISDIR(inode.mode) else -(-inode.size // 512)
    nanoseconds = inode.mtime * 1_000_000_000 + inode.mtime_nsec
    entry.st_mtime_ns = entry.st_ctime_ns = entry.st_atime_ns = nanoseconds
    return entry


def _negative_entry() -> EntryAttributes:
    """The answer that lets the kernel remember that there is no such name."""
    entry = EntryAttributes()
    entry.st_ino = 0
    entry.entry_timeout = _FOREVER
    return entry
