"""The EROFS records that a RAFS v6 bootstrap is made of: what the kernel itself reads.

See docs/format.md, "Superblock", "Inodes", "Directories". Only shapes and
constants are here, and the conversions that reading and writing share.
"""

from __future__ import annotations

import stat
from struct import Struct
from typing import NamedTuple

from fs.format.errors import FormatError

SUPERBLOCK_OFFSET = 1024
SUPERBLOCK_SIZE = 128
MAGIC = 0xE0F5E1E2
#: The private compatible bit by which a RAFS v6 bootstrap is told from other EROFS images.
COMPAT_RAFS_V6 = 0x40000000
#: CHUNKED_FILE and DEVICE_TABLE: what a RAFS v6 bootstrap needs, and no more.
INCOMPAT_RAFS_V6 = 0x4 | 0x8
BLOCK_BITS = (9, 12)

# magic, checksum, feature_compat, blkszbits, extslots, root_nid, inos, build_time,
# build_time_nsec, blocks, meta_blkaddr, xattr_blkaddr, uuid, volume, feature_incompat,
# algorithms, extra_devices, devt_slotoff
_SUPERBLOCK = Struct("<3I2BH2Q4I16s16sI3H38x")
assert _SUPERBLOCK.size == SUPERBLOCK_SIZE


class Superblock(NamedTuple):
    magic: int
    checksum: int
    feature_compat: int
    blkszbits: int
    extslots: int
    root_nid: int
    inos: int
    build_time: int
    build_time_nsec: int
    blocks: int
    meta_blkaddr: int
    xattr_blkaddr: int
    uuid: bytes
    volume: bytes
    feature_incompat: int
    algorithms: int
    extra_devices: int
    devt_slotoff: int

    def pack(self) -> bytes:
        return _SUPERBLOCK.pack(*self)

    def problem(self) -> str:
        """What makes this no superblock of a RAFS v6 bootstrap that can be read, or ''."""
        if self.magic != MAGIC:
            return "not a RAFS bootstrap (no magic number)"
        if not self.feature_compat & COMPAT_RAFS_V6:
            return "an EROFS image, but not a RAFS v6 bootstrap"
        if self.feature_incompat != INCOMPAT_RAFS_V6 or self.extslots or self.algorithms:
            return f"unsupported EROFS features {self.feature_incompat:#x}"
        if self.blkszbits not in BLOCK_BITS:
            return f"block size of 2^{self.blkszbits} bytes"
        if self.checksum:
            return "superblock checksums are not supported"
        if self.xattr_blkaddr:
            return "shared extended attributes are not supported"
        if self.devt_slotoff != DEVICE_SLOT_START or self.extra_devices > _MAX_DEVICES:
            return f"{self.extra_devices} device slots from {self.devt_slotoff}"
        if self.build_time > SIZE_MAX or self.build_time_nsec > NSEC_MAX:
            return f"build time {self.build_time}.{self.build_time_nsec}"
        return ""


def unpack_superblock(data: memoryview) -> Superblock:
    return Superblock._make(_SUPERBLOCK.unpack(data))


DEVICE_SLOTS_OFFSET = 1408
DEVICE_SLOT_SIZE = 128
DEVICE_SLOT_START = DEVICE_SLOTS_OFFSET // DEVICE_SLOT_SIZE
#: Device numbers share a field with chunk positions, which leaves them eight bits.
_MAX_DEVICES = 254

# tag, blocks, mapped_blkaddr
_DEVICE_SLOT = Struct("<64s2I56x")
assert _DEVICE_SLOT.size == DEVICE_SLOT_SIZE


def pack_device_slot(tag: str, blocks: int, mapped_blkaddr: int) -> bytes:
    """One device: its size and, for an image that is one file, its place there, in blocks."""
    return _DEVICE_SLOT.pack(tag.encode(), blocks, mapped_blkaddr)


def device_slots(start: bytes | memoryview, count: int, where: str) -> list[tuple[int, int]]:
    """Blocks and mapped block address of each device, from the first bytes of a bootstrap."""
    end = DEVICE_SLOTS_OFFSET + count * DEVICE_SLOT_SIZE
    if len(start) < end:
        raise FormatError(f"{count} device slots reach past the end", where)
    slots = memoryview(start)[DEVICE_SLOTS_OFFSET:end]
    return [(blocks, address) for _, blocks, address in _DEVICE_SLOT.iter_unpack(slots)]


SLOT_SIZE = 32  # the unit of a nid

FLAT_PLAIN = 0
FLAT_INLINE = 2
CHUNK_BASED = 4

#: i_format, and the two shapes of an inode that it tells apart.
INODE_FORMAT = Struct("<H")
# i_format, xattr_icount, mode, nlink, size, u, ino, uid, gid
INODE_COMPACT = Struct("<4HI4x2I2H4x")
# i_format, xattr_icount, mode, size, u, ino, uid, gid, mtime, mtime_nsec, nlink
INODE_EXTENDED = Struct("<3H2xQ4Iq2I16x")
assert INODE_COMPACT.size == 32
assert INODE_EXTENDED.size == 64

#: Set in i_u of a chunk-based file; the low five bits are log2(chunk size / block size).
CHUNK_INDEXES = 0x20
CHUNK_BITS_MASK = 0x1F

# blob_addr_lo, blob_addr_hi, blkaddr
CHUNK_INDEX = Struct("<2HI")
CHUNK_INDEX_SIZE = 8
#: blkaddr of a hole.
NULL_ADDRESS = 0xFFFFFFFF

# nid, nameoff, file_type
DIRENT = Struct("<QHBx")
DIRENT_SIZE = 12
NAME_MAX = 255
#: The longest target that Linux stores in a symbolic link.
SYMLINK_MAX = 4095

#: What off_t and a struct timespec can hold.
SIZE_MAX = (1 << 63) - 1
NSEC_MAX = 999_999_999

_FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}
FILE_TYPE_MAX = 7


def file_type(mode: int) -> int:
    """The dirent type of `mode`; 0 when its file type bits are none."""
    return _FILE_TYPES.get(stat.S_IFMT(mode), 0)
