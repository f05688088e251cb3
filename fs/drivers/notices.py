"""What we tell the kernel unasked over a FUSE connection: that something changed, or to send again.

Whatever was cached of an image stays true, so these are about the directory of all
trees and about blob files only. Writing one needs no answer of ours but may wait for
a lock that a request under way holds: `take_back` belongs in a thread.
"""

from __future__ import annotations

import errno
import os

from fs.drivers import wire
from fs.drivers.instances import ROOT

_ATTRIBUTES_ONLY = -1


class Notices:
    """`descriptor` is that of the connection."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def resend(self) -> None:
        """Have what a dead worker had taken and not answered sent again."""
        os.write(self._descriptor, wire.notification(wire.NOTIFY_RESEND))

    def take_back(self, name: bytes, parent: int = ROOT) -> None:
        """Have a name in directory `parent` forgotten, and all below that nobody uses. Blocking.

        OSError (ENOENT) when the kernel does not know the name.
        """
        body = wire.INVAL_ENTRY.pack(parent, len(name), 0) + name + b"\0"
        os.write(self._descriptor, wire.notification(wire.NOTIFY_INVAL_ENTRY, body))

    def knows(self, inode: int) -> bool:
        """Whether the kernel knows an inode: its attributes can be taken back only then."""
        return self._invalidate(inode, _ATTRIBUTES_ONLY)

    def changed(self, inode: int) -> None:
        """Have the listing of a directory, and its attributes, asked for anew."""
        self._invalidate(inode, 0)

    def _invalidate(self, inode: int, offset: int) -> bool:
        body = wire.INVAL_INODE.pack(inode, offset, 0)
        try:
            os.write(self._descriptor, wire.notification(wire.NOTIFY_INVAL_INODE, body))
        except OSError as error:
            return error.errno != errno.ENOENT
        return True
