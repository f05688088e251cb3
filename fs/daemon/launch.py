"""Start, stop and ask the daemon of a mount: the client side, for our commands and tools.

A call returns when the kernel answers at the mountpoint, or raises the very
failure that the daemon met: its class and message cross a pipe as JSON.
Imports only what a process that starts in milliseconds can afford.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sys
import time
from typing import Any, NamedTuple

from fs import mounts
from fs.daemon.order import (
    CONTROL,
    LOCK,
    LOG,
    MountOptions,
    Order,
    default_state_root,
    read_state,
    remove_state,
    state_dir,
)
from fs.format import errors
from fs.format.errors import Failure, MountError, NotFoundError, UsageError, local_errors
from fs.owndir import make_own

__all__ = ["MountOptions", "Mounted", "all_status", "mount", "status", "unmount"]

_PACKAGE_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_DAEMON = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from fs.daemon.supervisor import detached; detached(sys.argv[2], int(sys.argv[3]))"
)
_GONE_SECONDS = 20.0


class Mounted(NamedTuple):
    """A mount that answers. `image_config` is the image's configuration as in the registry."""

    mountpoint: str
    pid: int
    state_dir: str
    image_config: dict[str, Any] | None = None
    manifest_digest: str | None = None


def mount(source: str, mountpoint: str, options: MountOptions | None = None) -> Mounted:
    """Mount `source` at the directory `mountpoint` by a detached daemon.

    Raises the Failure that the daemon met, PlainImageError among them.
    """
    options = options or MountOptions()
    order = Order(source, checked_mountpoint(mountpoint), options)
    directory = prepare_state(order)
    reports, reporter = os.pipe()
    try:
        try:
            _spawn(order, directory, reporter)
        finally:
            os.close(reporter)
        report = _read_all(reports)
    finally:
        os.close(reports)
    if not report:
        raise MountError(f"{mountpoint}: the daemon ended without a word, see {directory}/{LOG}")
    return mounted_from(json.loads(report))


def checked_mountpoint(mountpoint: str) -> str:
    """The absolute, resolved path of a directory that can be mounted on."""
    resolved = _resolved(mountpoint)
    try:
        is_directory = os.path.isdir(resolved)
    except OSError as error:  # a dead mount answers ENOTCONN
        raise MountError(f"{mountpoint}: {error.strerror}") from None
    if not is_directory and not is_mounted(resolved):
        raise NotFoundError(f"{mountpoint}: no such directory")
    return resolved


def _resolved(mountpoint: str) -> str:
    if not mountpoint:  # realpath() takes it for the working directory
        raise UsageError("the mountpoint is empty")
    return os.path.realpath(mountpoint)


def prepare_state(order: Order) -> str:
    """The mount's own directory, empty of what a dead daemon left; MountError if one lives."""
    directory = state_dir(order.mountpoint, order.options.state_root)
    make_own(directory)
    if daemon_lives(directory):
        raise MountError(f"{order.mountpoint}: already mounted by nydus-fs")
    if read_state(directory) is not None and is_mounted(order.mountpoint):
        _detach(order.mountpoint)
    for name in (CONTROL, LOG):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))
    return directory


def _spawn(order: Order, directory: str, reporter: int) -> None:
    """Start the supervisor; it leaves our process tree by itself, so nothing is left to reap."""
    log = os.open(
        os.path.join(directory, LOG),
        os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW,
        0o600,
    )
    command = [sys.executable, "-I", "-S", "-c", _DAEMON, _PACKAGE_ROOT]
    command += [json.dumps(order.to_json()), "3"]
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, log, 1),
        (os.POSIX_SPAWN_DUP2, log, 2),
        (os.POSIX_SPAWN_DUP2, reporter, 3),
    ]
    try:
        # A new process group, so that a Ctrl-C in the caller's terminal is not for the daemon.
        pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions, setpgroup=0)
    finally:
        os.close(log)
    os.waitpid(pid, 0)


def _read_all(descriptor: int) -> bytes:
    pieces = []
    while piece := os.read(descriptor, 1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def mounted_from(report: dict[str, Any]) -> Mounted:
    """The daemon's report as a value, or as the failure it tells of."""
    if "failure" in report:
        raise failure_from(report["failure"])
    return Mounted(**report["mounted"])


def failure_to(failure: Failure) -> dict[str, str]:
    """`failure` as JSON has it; of a kind that others know, whatever finer kind it is here."""
    kind = next(kind for kind in type(failure).__mro__ if kind.__module__ == errors.__name__)
    return {"class": kind.__name__, "message": failure.message}


def failure_from(fields: dict[str, str]) -> Failure:
    kind: type[Failure] = getattr(errors, fields["class"])
    return kind(fields["message"])


def unmount(mountpoint: str, *, lazy: bool = False, state_root: str | None = None) -> None:
    """Unmount and wait until the daemon is gone with its files.

    MountError when in use; with `lazy` the mount disappears at once and the
    daemon ends, unwaited for, when the last user has left. A daemon that was
    killed counts as unmounted once its dead mount and files are gone.
    """
    resolved = _resolved(mountpoint)
    directory = state_dir(resolved, state_root)
    if read_state(directory) is None:
        raise NotFoundError(f"{mountpoint}: not mounted by nydus-fs")
    lock = _open_lock(directory)
    try:
        if is_mounted(resolved):
            unmount_kernel(resolved, lazy)
        if lazy:
            return
        if lock is not None and not _await_end(lock):
            raise MountError(f"{mountpoint}: unmounted, but its daemon does not end: {directory}")
    finally:
        if lock is not None:
            os.close(lock)
    remove_state(directory)


def _await_end(lock: int) -> bool:
    """Wait until no process of the daemon lives; False when that takes too long."""
    deadline = time.monotonic() + _GONE_SECONDS
    while _is_held(lock):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def unmount_kernel(mountpoint: str, lazy: bool) -> None:
    if os.geteuid() != 0:
        _fusermount_unmount(mountpoint, lazy)
        return
    try:
        mounts.umount(mountpoint, mounts.UMOUNT_NOFOLLOW | (mounts.MNT_DETACH if lazy else 0))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise MountError(f"{mountpoint}: in use") from None
        raise MountError(f"{mountpoint}: {error.strerror}") from None


def _fusermount_unmount(mountpoint: str, lazy: bool) -> None:
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", mountpoint]
    pid = os.posix_spawnp(command[0], command, os.environ)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise MountError(f"{mountpoint}: fusermount3 could not unmount it")


def _detach(mountpoint: str) -> None:
    """Take away a mount whose daemon is dead; whoever still uses it keeps getting errors."""
    unmount_kernel(mountpoint, lazy=True)


def status(mountpoint: str, *, state_root: str | None = None) -> dict[str, Any]:
    """What the daemon of `mountpoint` says of itself: see docs/operations.md."""
    resolved = _resolved(mountpoint)
    directory = state_dir(resolved, state_root)
    state = read_state(directory)
    if state is None:
        raise NotFoundError(f"{mountpoint}: not mounted by nydus-fs")
    return _status(directory, state)


def all_status(state_root: str | None = None) -> list[dict[str, Any]]:
    """The status of every mount of this user, dead ones included."""
    root = state_root or default_state_root()
    if not os.path.exists(root):
        return []
    with local_errors(root):
        names = sorted(os.listdir(root))
    directories = [os.path.join(root, name) for name in names]
    states = [(directory, read_state(directory)) for directory in directories]
    return [_status(directory, state) for directory, state in states if state is not None]


def _status(directory: str, state: dict[str, Any]) -> dict[str, Any]:
    known = {
        "source": state["order"]["source"],
        "mountpoint": state["order"]["mountpoint"],
        "pid": state["pid"],
        "state_dir": directory,
    }
    if not daemon_lives(directory):
        return known | {"alive": False}
    from fs.daemon.control import ask

    return known | {"alive": True} | ask(directory)


def daemon_lives(directory: str) -> bool:
    """Whether any process of the daemon lives: they share one lock, however they may die."""
    lock = _open_lock(directory)
    if lock is None:
        return False
    try:
        return _is_held(lock)
    finally:
        os.close(lock)


def _open_lock(directory: str) -> int | None:
    try:
        return os.open(os.path.join(directory, LOCK), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def _is_held(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(lock, fcntl.LOCK_UN)
    return False


def is_mounted(mountpoint: str) -> bool:
    """Whether something is mounted at this resolved path; asks no file system, so never hangs."""
    return mount_device(mountpoint) is not None


def mount_device(mountpoint: str) -> str | None:
    """ "MAJOR:MINOR" of the topmost mount at `mountpoint`, from the kernel's mount table."""
    found = None
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            fields = line.split(b" ", 5)
            if _unescape(fields[4]) == os.fsencode(mountpoint):
                found = fields[2].decode()
    return found


def _unescape(path: bytes) -> bytes:
    for code, plain in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        path = path.replace(code, plain)
    return path
