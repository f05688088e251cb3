"""The records of the FUSE protocol (7.31 and later) that we read and write ourselves.

Little-endian, as on every machine we run on; source: the kernel's include/uapi/linux/fuse.h.
A request is a header and a body, an answer is a header with an errno and a body, a
notification is an answer to request 0 that has the kind in the errno's place.
"""

from __future__ import annotations

import stat
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fs.format.bootstrap import Inode

LOOKUP = 1
FORGET = 2
GETATTR = 3
READLINK = 5
OPEN = 14
READ = 15
RELEASE = 18
GETXATTR = 22
LISTXATTR = 23
INIT = 26
OPENDIR = 27
READDIR = 28
RELEASEDIR = 29
INTERRUPT = 36
NOTIFY_REPLY = 41
BATCH_FORGET = 42
READDIRPLUS = 44

#: Flags of INIT: after ENOSYS to OPEN, or OPENDIR, the kernel does without.
NO_OPEN_SUPPORT = 1 << 17
NO_OPENDIR_SUPPORT = 1 << 24
#: Flags of the answer to OPEN and OPENDIR.
FOPEN_KEEP_CACHE = 1 << 1
FOPEN_CACHE_DIR = 1 << 3

#: 0 u32 length, 4 u32 opcode, 8 u64 unique, 16 u64 inode, 24 u32 uid, 28 u32 gid, 32 u32 pid,
#: 36 u16 length of extensions, 38 u16 padding.
IN_HEADER = struct.Struct("<IIQQIIIHH")
#: 0 u32 length, 4 i32 -errno (or kind of notification), 8 u64 unique.
OUT_HEADER = struct.Struct("<IiQ")
#: 0 u32 major, 4 u32 minor, 8 u32 max_readahead, 12 u32 flags, 16 u32 flags2 (44 unused follow).
INIT_IN = struct.Struct("<IIIII")
#: 0 u32 major, 4 u32 minor, 8 u32 max_readahead, 12 u32 flags, 16 u16 max_background,
#: 18 u16 congestion_threshold, 20 u32 max_write, 24 u32 time_gran, 28 u16 max_pages,
#: 30 u16 map_alignment, 32 u32 flags2, 36 u32 max_stack_depth, 40 u16 request_timeout.
INIT_OUT = struct.Struct("<IIIIHHIIHHIIH22x")
#: 0 u64 handle, 8 u64 offset, 16 u32 size (24 more: flags, lock owner).
READ_IN = struct.Struct("<QQI")
#: 0 u64 handle, 8 u32 open flags, 12 i32 backing id.
OPEN_OUT = struct.Struct("<QIi")
#: 0 u64 ino, 8 u64 size, 16 u64 blocks, 24 u64 atime, 32 u64 mtime, 40 u64 ctime,
#: 48 u32 atimensec, 52 u32 mtimensec, 56 u32 ctimensec, 60 u32 mode, 64 u32 nlink, 68 u32 uid,
#: 72 u32 gid, 76 u32 rdev, 80 u32 blksize, 84 u32 flags. Times are signed in truth.
ATTR = struct.Struct("<QQQqqqIIIIIIIIII")
#: 0 u64 seconds that the attributes are valid, 8 u32 nanoseconds, 12 u32 padding; ATTR follows.
ATTR_OUT = struct.Struct("<QII")
#: 0 u64 inode (0: no such name), 8 u64 generation, 16 u64 seconds that the name is valid,
#: 24 u64 seconds that the attributes are, 32 u32 and 36 u32 nanoseconds of both; ATTR follows.
ENTRY_OUT = struct.Struct("<QQQQII")
ENTRY_SIZE = ENTRY_OUT.size + ATTR.size
#: 0 u64 ino, 8 u64 cookie, 16 u32 length of the name, 20 u32 type; the name follows, padded to 8.
DIRENT = struct.Struct("<QQII")
#: 0 u64 lookups that are forgotten.
FORGET_IN = struct.Struct("<Q")
#: 0 u32 count, 4 u32 padding; that many FORGET_ONE follow.
BATCH_FORGET_IN = struct.Struct("<II")
#: 0 u64 inode, 8 u64 lookups.
FORGET_ONE = struct.Struct("<QQ")
#: 0 u64 unique of the request that somebody waits for no longer.
INTERRUPT_IN = struct.Struct("<Q")
#: Notification 2: 0 u64 inode, 8 i64 offset (-1: attributes only), 16 i64 length (0: to the end).
INVAL_INODE = struct.Struct("<Qqq")
#: Notification 3: 0 u64 directory, 8 u32 length of the name, 12 u32 flags; the name and a 0 follow.
INVAL_ENTRY = struct.Struct("<QII")
assert IN_HEADER.size == 40
assert OUT_HEADER.size == 16
assert INIT_OUT.size == 64
assert ATTR.size == 88
assert ENTRY_SIZE == 128
assert DIRENT.size == 24

NOTIFY_INVAL_INODE = 2
NOTIFY_INVAL_ENTRY = 3
NOTIFY_RESEND = 7

#: A request number that the kernel never uses: the answer to it is refused, and nobody minds.
NO_REQUEST = 0x7FFFFFFFFFFFFFF1

FOREVER = 10 * 365 * 86400
_BLOCK = 4096


def attributes(number: int, inode: Inode) -> bytes:
    """The ATTR of `inode` as FUSE inode `number`."""
    mtime, nsec = inode.mtime, inode.mtime_nsec
    blocks = 0 if stat.S_ISDIR(inode.mode) else -(-inode.size // 512)
    return ATTR.pack(
        number, inode.size, blocks, mtime, mtime, mtime, nsec, nsec, nsec,
        inode.mode, inode.nlink, inode.uid, inode.gid, inode.rdev & 0xFFFFFFFF, _BLOCK, 0,
    )  # fmt: skip


def answer(unique: int, body: bytes = b"", error: int = 0) -> bytes:
    """A whole answer; `error` is an errno, or 0."""
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), -error, unique) + body


def notification(kind: int, body: bytes = b"") -> bytes:
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), kind, 0) + body


def dirent(number: int, cookie: int, mode: int, name: bytes) -> bytes:
    """One name of a listing; `mode` gives its type."""
    record = DIRENT.pack(number, cookie, len(name), mode >> 12 & 15) + name
    return record + bytes(-len(record) % 8)
