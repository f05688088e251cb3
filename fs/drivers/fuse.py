"""What pyfuse3 answers of the tree over FUSE: link targets, extended attributes, statfs.

All that is asked often never comes here (`front.py`). What has no handler is
answered ENOSYS, after which the kernel does without it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import pyfuse3
from pyfuse3 import FUSEError, RequestContext

from fs.drivers.errnos import errno_boundary
from fs.drivers.instances import Instances

_BLOCK = 4096


class TreeOperations(pyfuse3.Operations):
    """`on_init` is called once, when libfuse has seen its INIT request."""

    def __init__(self, instances: Instances, on_init: Callable[[], None]) -> None:
        super().__init__()
        self._instances = instances
        self._on_init = on_init

    def init(self) -> None:
        self._on_init()

    @errno_boundary
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        _, tree, nid = self._instances.resolve(inode)
        return tree.readlink(nid)

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
