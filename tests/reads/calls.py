"""What a tree answers to each system call that would change it, and to some that would not.

    python -m tests.reads.calls ROOT UID

Prints JSON: "call path [path]" → the errno's name, "" for success. Runs as UID from ROOT, so that
both ends of a comparison see the same words. The calls are those of pjdfstest.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator

#: What `tests/reads/test_posix.py` makes, and what is not there.
PATHS = (
    ".",
    "file",
    "file/",
    "file/below",
    "executable",
    "unreadable",
    "dir",
    "dir/",
    "dir/.",
    "dir/..",
    "dir/file",
    "dir/new",
    "dir/new/",
    "dir/empty",
    "new",
    "new/",
    "new/below",
    "to-file",
    "to-file/",
    "to-dir",
    "to-dir/",
    "to-dir/file",
    "to-dir/new",
    "to-nothing",
    "to-nothing/",
    "to-itself",
    "to-itself/below",
    "to-each/other",
    "private",
    "private/file",
    "private/new",
    "others",
    "others/mine",
    "others/new",
    "open",
    "open/new",
    "sticky",
    "sticky/theirs",
    "sticky/new",
    "fifo",
    "socket",
    "device",
    "n" * 255,
    "n" * 256,
    "dir/" + "n" * 256,
    "./" * 2040 + "file",
    "./" * 2060 + "file",
    "",
)
#: Pairs of these are renamed, linked and exchanged.
PAIRED = (
    "file",
    "dir",
    "dir/empty",
    "dir/file",
    "dir/new",
    "new",
    "new/below",
    "file/below",
    "to-file",
    "to-dir/new",
    "to-nothing",
    "to-itself",
    "private/file",
    "others/mine",
    "sticky/theirs",
    "n" * 256,
    "dir/.",
    "",
)
Call = Callable[[str], object]


def _opened(flags: int, mode: int = 0o644) -> Call:
    return lambda path: os.close(os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode))


def _by_descriptor(flags: int, call: Callable[[int], object]) -> Call:
    def made(path: str) -> None:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            call(descriptor)
        finally:
            os.close(descriptor)

    return made


def _bind(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        if len(os.fsencode(path)) < 108:
            bound.bind(path)


CALLS: dict[str, Call] = {
    "stat": os.stat,
    "lstat": os.lstat,
    "listdir": os.listdir,
    "readlink": os.readlink,
    "open": _opened(os.O_RDONLY),
    "open no follow": _opened(os.O_RDONLY | os.O_NOFOLLOW),
    "open directory": _opened(os.O_RDONLY | os.O_DIRECTORY),
    "open to write": _opened(os.O_WRONLY),
    "open to read and write": _opened(os.O_RDWR),
    "open to append": _opened(os.O_WRONLY | os.O_APPEND),
    "open and truncate": _opened(os.O_RDONLY | os.O_TRUNC),
    "open and create": _opened(os.O_RDONLY | os.O_CREAT),
    "open and create to write": _opened(os.O_WRONLY | os.O_CREAT),
    "open and create exclusively": _opened(os.O_WRONLY | os.O_CREAT | os.O_EXCL),
    "open nameless": _opened(os.O_TMPFILE | os.O_RDWR),
    "access to read": lambda path: _access(path, os.R_OK),
    "access to write": lambda path: _access(path, os.W_OK),
    "access to execute": lambda path: _access(path, os.X_OK),
    "chdir": lambda path: _and_back(path),
    "chmod": lambda path: os.chmod(path, 0o777),
    "chmod to set user id": lambda path: os.chmod(path, 0o4755),
    "fchmod": _by_descriptor(os.O_RDONLY, lambda file: os.fchmod(file, 0o777)),
    "chown": lambda path: os.chown(path, 7, 7),
    "chown to nobody new": lambda path: os.chown(path, -1, -1),
    "chown to its own group": lambda path: os.chown(path, -1, os.getegid()),
    "lchown": lambda path: os.lchown(path, 7, 7),
    "fchown": _by_descriptor(os.O_RDONLY, lambda file: os.fchown(file, 7, 7)),
    "truncate": lambda path: os.truncate(path, 0),
    "truncate to more": lambda path: os.truncate(path, 1 << 20),
    "truncate to less than nothing": lambda path: os.truncate(path, -1),
    "ftruncate": _by_descriptor(os.O_RDONLY, lambda file: os.ftruncate(file, 0)),
    "write": _by_descriptor(os.O_RDONLY, lambda file: os.write(file, b"x")),
    "fallocate": _by_descriptor(os.O_RDONLY, lambda file: os.posix_fallocate(file, 0, 1)),
    "fsync": _by_descriptor(os.O_RDONLY, os.fsync),
    "utime": lambda path: os.utime(path),
    "utime of a time": lambda path: os.utime(path, (1, 1)),
    "utime of a link": lambda path: os.utime(path, (1, 1), follow_symlinks=False),
    "mkdir": os.mkdir,
    "rmdir": os.rmdir,
    "unlink": os.unlink,
    "mkfifo": os.mkfifo,
    "mknod of a file": lambda path: os.mknod(path, stat.S_IFREG | 0o644),
    "mknod of a device": lambda path: os.mknod(path, stat.S_IFCHR | 0o644, os.makedev(1, 3)),
    "mknod of a block device": lambda path: os.mknod(path, stat.S_IFBLK | 0o644, os.makedev(7, 0)),
    "bind": _bind,
    "symlink": lambda path: os.symlink("anything", path),
    "symlink to nothing": lambda path: os.symlink("", path),
    "symlink to too much": lambda path: os.symlink("x" * 4096, path),
    "link from outside": lambda path: os.link("/proc/self/status", path),
    "rename from outside": lambda path: os.rename("/proc/self/status", path),
    "setxattr": lambda path: os.setxattr(path, "user.new", b"x"),
    "setxattr of a link": lambda path: os.setxattr(path, "user.new", b"x", follow_symlinks=False),
    "setxattr trusted": lambda path: os.setxattr(path, "trusted.new", b"x"),
    "removexattr": lambda path: os.removexattr(path, "user.none"),
}
PAIRS: dict[str, Callable[[str, str], object]] = {
    "rename": os.rename,
    "link": lambda one, other: os.link(one, other, follow_symlinks=False),
    "link what it leads to": lambda one, other: os.link(one, other, follow_symlinks=True),
    "symlink": os.symlink,
}


def _fail(number: int) -> None:
    raise OSError(number, os.strerror(number))


def _access(path: str, mode: int) -> None:
    """access(2) tells Python no errno; whether it is denied is what it tells."""
    if not os.access(path, mode):
        _fail(errno.EACCES)


def _and_back(path: str) -> None:
    here = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        os.chdir(path)
    finally:
        os.fchdir(here)
        os.close(here)


def _outcome(call: Callable[..., object], *paths: str) -> str:
    try:
        call(*paths)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def outcomes() -> Iterator[tuple[str, str]]:
    """Each call on each path of the working directory."""
    for name, call in CALLS.items():
        for path in PATHS:
            yield f"{name} {_short(path)}", _outcome(call, path)
    for name, of_two in PAIRS.items():
        for one, other in itertools.product(PAIRED, PAIRED):
            yield f"{name} {_short(one)} {_short(other)}", _outcome(of_two, one, other)


def _short(path: str) -> str:
    return path if len(path) < 40 else f"{path[:5]}…{len(path)}"


def main() -> int:
    os.chdir(sys.argv[1])
    user = int(sys.argv[2])
    if user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    os.umask(0o022)
    print(json.dumps(dict(outcomes())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
