"""Layer tars, well-formed and hostile, and the oracle for what a stack of layers shows.

The oracle is the kernel: every layer is unpacked into a directory of its own, the
way containerd does it (whiteouts as character devices 0:0, opaque directories by
xattr), and overlayfs puts the directories together. The tars are read with the
standard library's tarfile, paths are resolved by openat2(2), and a hard link to a
file of a lower layer is made through a real overlay mount: nothing of the code
under test takes part.
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
import shutil
import stat
import struct
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fs.mounts import MNT_DETACH, MS_RDONLY, mount, umount
from tests.parts.trees import Entry, differences, scan

STARTED = time.time_ns()
BLOCK = 512


# --- making layers -----------------------------------------------------------------


def header(
    name: bytes,
    flag: bytes = b"0",
    size: int = 0,
    *,
    target: bytes = b"",
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 1_600_000_000,
    device: tuple[int, int] = (0, 0),
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    tail: bytes = b"",
) -> bytes:
    """One header block with a right checksum; numbers that need it are in base 256."""
    fields = struct.pack(
        "100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12s",
        name,
        number(mode, 8),
        number(uid, 8),
        number(gid, 8),
        number(size, 12),
        number(mtime, 12),
        b" " * 8,
        flag,
        target,
        magic,
        b"",
        b"",
        number(device[0], 8),
        number(device[1], 8),
        prefix,
        b"",
    )
    fields = fields[: BLOCK - len(tail)] + tail
    return with_checksum(fields)


def with_checksum(block: bytes) -> bytes:
    blank = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(blank) + block[156:]


def number(value: int, width: int) -> bytes:
    text = b"%0*o\0" % (width - 1, value) if value >= 0 else b""
    if 0 < len(text) <= width:
        return text
    raw = bytearray(value.to_bytes(width, "big", signed=True))
    raw[0] |= 0x80
    return bytes(raw)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def pax(records: dict[bytes, bytes] | list[tuple[bytes, bytes]], flag: bytes = b"x") -> bytes:
    """A PAX extended header (flag x) or global one (g)."""
    pairs = records.items() if isinstance(records, dict) else records
    body = b"".join(_pax_record(key, value) for key, value in pairs)
    return header(b"PaxHeaders/x", flag, len(body)) + padded(body)


def _pax_record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest


class LayerTar:
    """Collects entries; `tar()` is the finished archive. Methods return self."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def raw(self, data: bytes) -> LayerTar:
        self._parts.append(data)
        return self

    def add(
        self,
        path: str | bytes,
        flag: bytes = b"0",
        data: bytes = b"",
        *,
        target: str | bytes = b"",
        mode: int = 0o644,
        uid: int = 0,
        gid: int = 0,
        mtime_ns: int = 1_600_000_000 * 10**9,
        device: tuple[int, int] = (0, 0),
        xattrs: dict[bytes, bytes] | None = None,
    ) -> LayerTar:
        """Any entry, with a PAX header where USTAR cannot say it."""
        path, target = os.fsencode(path), os.fsencode(target)
        records = {b"SCHILY.xattr." + key: value for key, value in (xattrs or {}).items()}
        if len(path) > 100:
            records[b"path"] = path
        if len(target) > 100:
            records[b"linkpath"] = target
        if mtime_ns % 10**9:
            records[b"mtime"] = b"%d.%09d" % divmod(mtime_ns, 10**9)
        self._parts.append(pax(records) if records else b"")
        self._parts.append(
            header(
                path[:100],
                flag,
                len(data),
                target=target[:100],
                mode=mode,
                uid=uid,
                gid=gid,
                mtime=mtime_ns // 10**9,
                device=device,
            )
        )
        self._parts.append(padded(data))
        return self

    def directory(self, path: str | bytes, mode: int = 0o755, **more: object) -> LayerTar:
        return self.add(path, b"5", mode=mode, **more)  # type: ignore[arg-type]

    def link(self, path: str | bytes, target: str | bytes, **more: object) -> LayerTar:
        return self.add(path, b"1", target=target, **more)  # type: ignore[arg-type]

    def symlink(self, path: str | bytes, target: str | bytes, **more: object) -> LayerTar:
        return self.add(path, b"2", target=target, mode=0o777, **more)  # type: ignore[arg-type]

    def tar(self) -> bytes:
        return b"".join(self._parts) + bytes(2 * BLOCK)


# --- the oracle ----------------------------------------------------------------------


@contextmanager
def overlay_of(layers: Sequence[bytes], work: Path) -> Iterator[Path]:
    """A read-only overlay mount of the unpacked `layers` (tars, lowest first)."""
    directories: list[Path] = []
    for index, tar in enumerate(layers):
        upper = work / f"l{index}"
        upper.mkdir()
        with overlay_mount(directories, work / f"below{index}") as lower:
            if index:
                _copy_attributes(os.fsencode(lower), os.fsencode(upper))
            _Unpacker(upper, lower, directories, work / f"up{index}").unpack(tar)
        directories.append(upper)
        _drop_ghosts(directories, work / f"ghosts{index}")
    with overlay_mount(directories, work / "merged") as merged:
        yield merged


@contextmanager
def overlay_mount(layers: Sequence[Path], work: Path, upper: Path | None = None) -> Iterator[Path]:
    """overlayfs over the directories `layers` (lowest first), writable if there is an `upper`."""
    parts = [work / name for name in ("mnt", "empty1", "empty2", "scratch")]
    for part in parts:
        part.mkdir(parents=True)
    point, empty1, empty2, scratch = parts  # without an upper, two lower ones are demanded
    lowers = ":".join(str(path) for path in (*reversed(layers), empty1, empty2))
    options = f"lowerdir={lowers},index=off,metacopy=off,redirect_dir=off"
    if upper:
        options += f",upperdir={upper},workdir={scratch}"
    mount("overlay", point, "overlay", 0 if upper else MS_RDONLY, options)
    try:
        yield point
    finally:
        umount(point, MNT_DETACH)
        shutil.rmtree(work)


def _drop_ghosts(layers: Sequence[Path], work: Path) -> None:
    """Remove whiteouts of nothing from the top layer: overlayfs may list, but never finds them."""
    ghosts = []
    with overlay_mount(layers, work) as merged:
        for directory, _, names in os.walk(os.fsencode(merged)):
            paths = [directory + b"/" + name for name in names]
            ghosts += [path[len(str(merged)) :] for path in paths if not os.path.lexists(path)]
    for ghost in ghosts:
        os.unlink(os.fsencode(layers[-1]) + ghost)


class _How(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "mode", "resolve")]


def _open_in_root(root: bytes, path: bytes) -> int:
    """A descriptor of the directory `path`, resolved by the kernel with `root` as the root."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        how = _How(os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, 0x10)  # RESOLVE_IN_ROOT
        libc = ctypes.CDLL(None, use_errno=True)
        found = libc.syscall(437, top, path or b".", ctypes.byref(how), ctypes.sizeof(how))
        if found < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
        return int(found)
    finally:
        os.close(top)


class _Unpacker:
    """Unpacks one layer into `upper`; `lower` shows the layers below, which are `lowers`."""

    def __init__(self, upper: Path, lower: Path, lowers: Sequence[Path], work: Path) -> None:
        self.upper = os.fsencode(upper)
        self.lower = os.fsencode(lower)
        self.lowers = lowers
        self.work = work
        self.marks: list[tuple[bytes, bytes]] = []
        self.directory_times: dict[bytes, int] = {}

    def unpack(self, tar: bytes) -> None:
        with tarfile.open(fileobj=io.BytesIO(tar), encoding="utf-8") as archive:
            for member in archive:
                self.entry(archive, member)
        for directory, name in self.marks:
            self.apply_mark(directory, name)
        for name in os.listdir(self.upper):
            if name.startswith(b".wh..wh."):
                shutil.rmtree(self.upper + b"/" + name)
        for path, mtime_ns in self.directory_times.items():
            if os.path.isdir(path) and not os.path.islink(path):
                os.utime(path, ns=(mtime_ns, mtime_ns))

    def entry(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        names = [n for n in os.path.normpath(b"/" + os.fsencode(member.name)).split(b"/") if n]
        if not names:
            self.attributes(self.upper, member)
            return
        parent = self.parent(names[:-1])
        base = names[-1]
        if base.startswith(b".wh."):
            if base == b".wh..wh..opq" or not base.startswith(b".wh..wh."):
                self.marks.append((parent, base))
            return
        path = parent + b"/" + base
        if os.path.lexists(path) and not (member.isdir() and _is_directory(path)):
            self.remove(path)
        self.make(archive, member, path)
        self.attributes(path, member)

    def remove(self, path: bytes) -> None:
        """Remove what an entry replaces, with all that was to be done in it later."""
        below = path + b"/"
        self.marks = [mark for mark in self.marks if not (mark[0] + b"/").startswith(below)]
        for directory in list(self.directory_times):
            if (directory + b"/").startswith(below):
                del self.directory_times[directory]
        shutil.rmtree(path) if _is_directory(path) else os.unlink(path)

    def parent(self, names: list[bytes]) -> bytes:
        """The real path of the directory, made as containerd's mkparent makes it."""
        try:
            fd = _open_in_root(self.upper, b"/".join(names))
        except FileNotFoundError:
            above = self.parent(names[:-1])
            path = above + b"/" + names[-1]
            if os.path.islink(path):  # to what is not there yet
                way = os.path.join(above[len(self.upper) :] or b"/", os.readlink(path))
                return self.parent(os.path.normpath(way).lstrip(b"/").split(b"/"))
            os.mkdir(path)
            os.chmod(path, 0o755)
            below = self.lower + path[len(self.upper) :]
            if os.path.realpath(below) == below and _is_directory(below):
                _copy_attributes(below, path)
            return path
        try:
            return os.readlink(b"/proc/self/fd/%d" % fd)
        finally:
            os.close(fd)

    def make(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: bytes) -> None:
        if member.isdir():
            if not os.path.lexists(path):
                os.mkdir(path)
        elif member.islnk():
            self.link(os.fsencode(member.linkname), path)
        elif member.issym():
            os.symlink(os.fsencode(member.linkname), path)
        elif member.isreg():
            content = archive.extractfile(member)
            assert content is not None
            with open(path, "wb") as out:
                shutil.copyfileobj(content, out)
        else:
            kind = {tarfile.CHRTYPE: stat.S_IFCHR, tarfile.BLKTYPE: stat.S_IFBLK}
            device = os.makedev(member.devmajor, member.devminor) if member.isdev() else 0
            os.mknod(path, kind.get(member.type, stat.S_IFIFO) | 0o600, device)

    def link(self, target: bytes, path: bytes) -> None:
        """link(2), through an overlay mount if the target is not in this layer."""
        above, base = os.path.split(os.path.normpath(b"/" + target).lstrip(b"/"))
        try:
            _link_in(self.upper, above, base, path)
        except FileNotFoundError:
            with overlay_mount(self.lowers, self.work, Path(os.fsdecode(self.upper))) as merged:
                root = os.fsencode(merged)
                new = root + path[len(self.upper) :]
                if os.path.lexists(new):
                    shutil.rmtree(new) if _is_directory(new) else os.unlink(new)
                _link_in(root, above, base, new)

    def attributes(self, path: bytes, member: tarfile.TarInfo) -> None:
        os.chown(path, member.uid, member.gid, follow_symlinks=False)
        for key, value in member.pax_headers.items():
            if key.startswith("SCHILY.xattr.") and not key.startswith("SCHILY.xattr.trusted."):
                try:
                    os.setxattr(path, key[13:], os.fsencode(value), follow_symlinks=False)
                except OSError as error:
                    if error.errno not in (errno.EPERM, errno.ENOTSUP):  # dropped, as by docker
                        raise
        if not os.path.islink(path):
            os.chmod(path, member.mode & 0o7777)
        seconds, _, fraction = member.pax_headers.get("mtime", str(int(member.mtime))).partition(
            "."
        )
        mtime_ns = int(seconds) * 10**9 + int(fraction[:9].ljust(9, "0"))
        os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
        if member.isdir():
            self.directory_times[path] = mtime_ns

    def apply_mark(self, directory: bytes, mark: bytes) -> None:
        """Whiteouts hide what lower layers have, never what this layer has."""
        if mark == b".wh..wh..opq" and directory != self.upper:
            os.setxattr(directory, "trusted.overlay.opaque", b"y")
        elif mark == b".wh..wh..opq":  # overlayfs knows no opaque root: hide name by name
            for name in os.listdir(self.lower):
                self.apply_mark(directory, b".wh." + name)
        else:
            path = directory + b"/" + mark[4:]
            if _is_directory(path):
                if path not in self.directory_times:  # a new one, though only implied
                    _reset_attributes(path)
                os.setxattr(path, "trusted.overlay.opaque", b"y")
            elif not os.path.lexists(path):
                os.mknod(path, stat.S_IFCHR, 0)


def _link_in(root: bytes, above: bytes, base: bytes, path: bytes) -> None:
    fd = _open_in_root(root, above)
    try:
        os.link(base, path, src_dir_fd=fd, follow_symlinks=False)
    finally:
        os.close(fd)


def _is_directory(path: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise


def _reset_attributes(path: bytes) -> None:
    for name in os.listxattr(path):
        os.removexattr(path, name)
    os.chown(path, 0, 0)
    os.chmod(path, 0o755)
    os.utime(path)


def _copy_attributes(source: bytes, path: bytes) -> None:
    seen = os.lstat(source)
    os.chown(path, seen.st_uid, seen.st_gid)
    os.chmod(path, stat.S_IMODE(seen.st_mode))
    for name in os.listxattr(source):
        os.setxattr(path, name, os.getxattr(source, name))
    os.utime(path, ns=(seen.st_mtime_ns, seen.st_mtime_ns))


# --- comparing ---------------------------------------------------------------------------


def expected_tree(merged: Path) -> dict[bytes, Entry]:
    return with_least_names(scan(merged))


def with_least_names(tree: dict[bytes, Entry]) -> dict[bytes, Entry]:
    """`identity` as the least path of the inode, so that it does not depend on the walk."""
    least: dict[bytes, bytes] = {}
    for path, entry in tree.items():
        least[entry.identity] = min(path, least.get(entry.identity, path))
    return {path: entry._replace(identity=least[entry.identity]) for path, entry in tree.items()}


def unlike(expected: dict[bytes, Entry], actual: dict[bytes, Entry]) -> list[str]:
    """Where `actual` differs from the oracle's tree, one line each.

    A time after this module was loaded is the time of unpacking: layers do not say
    what it should be (directories that are implied, or changed by an upper layer).
    """
    timed = dict(expected)
    for path, entry in expected.items():
        if entry.mtime_ns >= STARTED and path in actual:
            timed[path] = entry._replace(mtime_ns=actual[path].mtime_ns)
    return differences(timed, actual)
