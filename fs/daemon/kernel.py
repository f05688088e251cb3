"""The FUSE connection as the supervisor needs it: mounted, its INIT answered, ended.

The kernel's INIT is answered here and not by libfuse, which cannot ask for what
we need (idmapped mounts, resending after a crash, more requests at a time);
workers then get a copy of it for libfuse to see. See docs/concurrency.md.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from typing import NamedTuple

from fs import mounts
from fs.drivers import wire
from fs.format.errors import MountError

_ASYNC_READ = 1 << 0
_DO_READDIRPLUS = 1 << 13
_ASYNC_DIO = 1 << 15
_PARALLEL_DIROPS = 1 << 18
_MAX_PAGES = 1 << 22
_CACHE_SYMLINKS = 1 << 23
_INIT_EXT = 1 << 30
_WANTED = (
    _ASYNC_READ
    | _DO_READDIRPLUS
    | _ASYNC_DIO
    | _PARALLEL_DIROPS
    | _MAX_PAGES
    | _CACHE_SYMLINKS
    | _INIT_EXT
    | wire.NO_OPEN_SUPPORT
    | wire.NO_OPENDIR_SUPPORT
)
# In the second word of flags.
_HAS_RESEND = 1 << 7
_ALLOW_IDMAP = 1 << 8

_MAX_BACKGROUND = 128
_CONGESTION = 96
_MAX_WRITE = 1 << 20
_MAX_READAHEAD = 1 << 20
#: The kernel's own (VM_READAHEAD_PAGES).
_OWN_READAHEAD = 128 << 10
_PAGES = _MAX_WRITE // 4096
_REQUEST_SIZE = 1 << 17


class Connection(NamedTuple):
    """`init` is what libfuse is shown; `can_resend` whether a dead worker's requests come again."""

    descriptor: int
    init: bytes
    can_resend: bool


def offered(init: bytes) -> int:
    """The flags that the kernel offered, of the copy of its INIT."""
    return int(wire.INIT_IN.unpack_from(init, wire.IN_HEADER.size)[3])


def connect(mountpoint: str, source: str, *, nosuid: bool) -> Connection:
    """Mount and answer the kernel's INIT. Requests wait from now on. MountError."""
    if os.geteuid() == 0:
        descriptor = _mount(mountpoint, source, nosuid)
    else:
        descriptor = _fusermount(mountpoint, source)
    try:
        return _answer_init(descriptor)
    except OSError as error:
        os.close(descriptor)
        raise MountError(f"{mountpoint}: FUSE does not begin: {error.strerror}") from error


def _mount(mountpoint: str, source: str, nosuid: bool) -> int:
    flags = mounts.MS_RDONLY | mounts.MS_NODEV | (mounts.MS_NOSUID if nosuid else 0)
    try:
        descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise MountError(f"/dev/fuse: {error.strerror}") from error
    options = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"
    try:
        mounts.mount(source, mountpoint, "fuse.nydus", flags, options)
    except OSError as error:
        os.close(descriptor)
        raise MountError(f"{mountpoint}: {error.strerror}") from error
    return descriptor


def _fusermount(mountpoint: str, source: str) -> int:
    """Mount by the set-user-ID helper, which hands the descriptor over a socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        name = source.replace("\\", "\\\\").replace(",", "\\,")
        options = f"ro,nodev,default_permissions,subtype=nydus,fsname={name}"
        command = ["fusermount3", "-o", options, "--", mountpoint]
        theirs.set_inheritable(True)
        environment = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}
        said, saying = os.pipe()
        try:
            actions = [(os.POSIX_SPAWN_DUP2, saying, 2)]
            pid = os.posix_spawnp(command[0], command, environment, file_actions=actions)
        except OSError as error:
            os.close(said)
            raise MountError(f"fusermount3: {error.strerror}") from error
        finally:
            os.close(saying)
        theirs.close()
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        with open(said, "rb") as told:
            reason = told.read().decode(errors="replace").partition("\n")[0]
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code or not descriptors:
        reason = reason.removeprefix("fusermount3: ") or f"ended with {code}"
        raise MountError(f"{mountpoint}: fusermount3: {reason}")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def _answer_init(descriptor: int) -> Connection:
    request = bytearray(os.read(descriptor, _REQUEST_SIZE))
    _, opcode, unique, *_ = wire.IN_HEADER.unpack_from(request)
    if opcode != wire.INIT:
        raise OSError(0, f"request {opcode} came before INIT")
    body = wire.IN_HEADER.size
    major, minor, readahead, offered, offered2 = wire.INIT_IN.unpack_from(request, body)
    flags = _WANTED & offered
    flags2 = (_HAS_RESEND | _ALLOW_IDMAP) & offered2 if flags & _INIT_EXT else 0
    answer = wire.INIT_OUT.pack(
        major,
        minor,
        max(readahead, _MAX_READAHEAD),
        flags,
        _MAX_BACKGROUND,
        _CONGESTION,
        _MAX_WRITE,
        1,  # nanoseconds a unit of time
        _PAGES,
        0,
        flags2,
        0,
        0,
    )
    os.write(descriptor, wire.answer(unique, answer))
    struct.pack_into("<Q", request, 8, wire.NO_REQUEST)
    # libfuse knows nothing of the second word of flags.
    struct.pack_into("<II", request, body + 12, offered & ~_INIT_EXT, 0)
    return Connection(descriptor, bytes(request), bool(flags2 & _HAS_RESEND))


def widen_readahead(device: str) -> None:
    """Let the kernel read 1 MiB ahead on the mount with this "MAJOR:MINOR". Only root can."""
    _set_readahead(device, _MAX_READAHEAD)


def narrow_readahead(device: str) -> None:
    """Let it read as far ahead as it does in EROFS, in files that are opened from now on."""
    _set_readahead(device, _OWN_READAHEAD)


def _set_readahead(device: str, size: int) -> None:
    try:
        with open(f"/sys/class/bdi/{device}/read_ahead_kb", "w") as file:
            file.write(str(size >> 10))
    except OSError:
        pass  # slower, or more than is needed, but not wrong


def is_ended(descriptor: int) -> bool:
    """Whether the connection is over: unmounted by its last user, or aborted."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
