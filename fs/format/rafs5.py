"""The records of RAFS v5. See docs/format.md, "RAFS v5"."""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

MAGIC = b"SFAR"
VERSION = 0x500
SUPERBLOCK_SIZE = 8192

# magic, version, sb_size, chunk_size, flags, inodes, inode_table_offset, prefetch_offset,
# blob_table_offset, inode_table_entries, prefetch_entries, blob_table_size, extended_entries,
# extended_offset
SUPERBLOCK = Struct("<4s3I5Q4IQ")
assert SUPERBLOCK.size == 80


class Superblock(NamedTuple):
    magic: bytes
    version: int
    sb_size: int
    chunk_size: int
    flags: int
    inodes: int
    inode_table_offset: int
    prefetch_offset: int
    blob_table_offset: int
    inode_table_entries: int
    prefetch_entries: int
    blob_table_size: int
    extended_entries: int
    extended_offset: int


#: An entry of the inode table, and of the prefetch table.
ENTRY = Struct("<I")
#: What an entry of the inode table is multiplied with.
INODE_ALIGNMENT = 8

# chunk_count, features, uncompressed_size, compressed_size
EXTENDED_BLOB = Struct("<2I2Q40x")
assert EXTENDED_BLOB.size == 64

# digest, parent, ino, uid, gid, projid, mode, size, blocks, flags, nlink, child_index,
# child_count, name_size, symlink_size, rdev, mtime_nsec, mtime
INODE = Struct("<32x2Q4I3Q3I2H2Iq8x")
INODE_SIZE = 128
assert INODE.size == INODE_SIZE

INODE_HAS_XATTRS = 0x4

#: Size of the attributes, and in front of each of them its own.
XATTRS_SIZE = Struct("<Q")
XATTR_SIZE = Struct("<I")
