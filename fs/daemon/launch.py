"""Mount, unmount and ask: the client side, for our commands and tools.

The node's daemon is started if need be. It makes the mount, detached, and hands
it over as a descriptor; attaching it is the client's part, in its own mount
namespace and root. A failure that the daemon met is raised here as it was.
Imports only what a process that starts in milliseconds can afford.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any, NamedTuple

from fs.daemon import control
from fs.daemon.control import EndingError, Line
from fs.daemon.mountpoints import (
    attach,
    checked_mountpoint,
    is_mounted,
    mount_device,
    resolved_path,
    unmount_kernel,
)
from fs.daemon.order import DaemonOptions, MountOptions, Order, default_state_root, relevant
from fs.daemon.start import connect, forget_lost
from fs.daemon.state import (
    Record,
    await_end,
    directories,
    open_lock,
    private_directory,
    records,
    records_in,
)
from fs.format.errors import Failure, MountError, NotFoundError, UnreachableError

__all__ = [
    "MountOptions",
    "Mounted",
    "all_status",
    "expect",
    "is_mounted",
    "mount",
    "mount_device",
    "status",
    "unmount",
    "unmount_kernel",
]

#: Daemons that end, or workers that die, while they are asked for one mount.
_ATTEMPTS = 8
_PAUSE = 0.05


class Mounted(NamedTuple):
    """A mount that answers. `image_config` is the image's configuration as in the registry."""

    mountpoint: str
    pid: int
    state_dir: str
    image_config: dict[str, Any] | None = None
    manifest_digest: str | None = None


def mount(
    source: str, mountpoint: str, options: MountOptions | None = None, token: str = ""
) -> Mounted:
    """Mount `source` at the directory `mountpoint` by the daemon of the state root.

    `token` is what `expect` returned for the same source and options. Raises the Failure
    that the daemon met, PlainImageError among them.
    """
    options = options or MountOptions()
    target = checked_mountpoint(mountpoint)
    order = Order(source, target, options, relevant(os.environ), token or _new_token())
    return mount_by(daemon_for(order), order)


def expect(source: str, options: MountOptions) -> str:
    """Tell the daemon, if one runs, what will be mounted, so that it begins to ask for it.

    Returns a token for `mount`. Raises nothing.
    """
    order = Order(source, "", options, relevant(os.environ), _new_token())
    if os.geteuid() == 0:  # else the daemon is named for the mountpoint
        with contextlib.suppress(OSError), Line(daemon_for(order).directory) as line:
            line.tell("expect", **order.to_json())
    return order.token


def _new_token() -> str:
    return os.urandom(8).hex()


def daemon_for(order: Order) -> DaemonOptions:
    """The daemon that an order is for: the node's, or its own for who is not root."""
    root = os.path.abspath(order.options.state_root or default_state_root())
    if os.geteuid() == 0:
        return DaemonOptions(root, log_level=order.options.log_level)
    return private_daemon(order, single=order.mountpoint)


def private_daemon(order: Order, single: str | None = None) -> DaemonOptions:
    """A daemon for this mount alone."""
    root = os.path.abspath(order.options.state_root or default_state_root())
    directory = private_directory(order.mountpoint, root)
    return DaemonOptions(directory, single=single, log_level=order.options.log_level)


def mount_by(daemon: DaemonOptions, order: Order) -> Mounted:
    """Have a daemon mount, and attach what it hands over."""
    _clear_mountpoint(order, daemon)
    for _ in range(_ATTEMPTS):
        with connect(daemon) as line, contextlib.suppress(EndingError, OSError):
            return _mount_over(line, daemon, order)
        _pause(daemon)
    raise MountError(f"{order.mountpoint}: workers of the daemon keep ending")


def _clear_mountpoint(order: Order, daemon: DaemonOptions) -> None:
    """Refuse a place where a daemon serves already; take away a dead mount."""
    for record in records(order.options.state_root):
        if record.mountpoint != order.mountpoint or not is_mounted(order.mountpoint):
            continue
        if not record.lost and record.directory != daemon.directory:
            raise MountError(f"{order.mountpoint}: already mounted by nydus-fs")
        if record.lost:
            if mount_device(order.mountpoint) == (record.fields["device"] or None):
                unmount_kernel(order.mountpoint, lazy=True)
            if record.directory != daemon.directory:
                forget_lost(record.directory, order.mountpoint)


def _mount_over(line: Line, daemon: DaemonOptions, order: Order) -> Mounted:
    gone = not is_mounted(order.mountpoint)
    told, descriptor = line.ask("mount", replace=gone, **order.to_json())
    try:
        if descriptor is not None:
            attach(descriptor, order.mountpoint)
        _say_taken(line, daemon, told["id"])
    except BaseException:
        if descriptor is not None and mount_device(order.mountpoint) == told["device"]:
            with contextlib.suppress(MountError):
                unmount_kernel(order.mountpoint, lazy=True)
        raise
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return Mounted(
        order.mountpoint,
        told["pid"],
        daemon.directory,
        told["image_config"],
        told["manifest_digest"],
    )


def _say_taken(line: Line, daemon: DaemonOptions, instance: str) -> None:
    """The mount is ours; if its worker has just died, its successor is told."""
    try:
        line.ask("taken", id=instance)
    except OSError:
        control.call(daemon.directory, "taken", id=instance)


def _pause(daemon: DaemonOptions) -> None:
    """Let a daemon that ends do so, or a worker that died be replaced."""
    lock = open_lock(daemon.directory)
    if lock is None:
        return
    try:
        time.sleep(_PAUSE)
        await_end(lock, _PAUSE)
    finally:
        os.close(lock)


def unmount(mountpoint: str, *, lazy: bool = False, state_root: str | None = None) -> None:
    """Unmount; if that was the daemon's last image, wait until it is gone with its files.

    MountError when in use; with `lazy` the mount disappears at once and its
    users keep it until they leave. A mount whose daemon was killed counts as
    unmounted once it and its entry are gone.
    """
    resolved = resolved_path(mountpoint)
    record = _record(mountpoint, resolved, state_root)
    lock = open_lock(record.directory)
    try:
        if is_mounted(resolved):
            unmount_kernel(resolved, lazy)
        ending = _tell_unmounted(record, resolved)
        if ending and not lazy and lock is not None and not await_end(lock):
            raise MountError(
                f"{mountpoint}: unmounted, but its daemon does not end: {record.directory}"
            )
    finally:
        if lock is not None:
            os.close(lock)


def _tell_unmounted(record: Record, mountpoint: str) -> bool:
    """Have the entry struck off; whether the daemon ends with it."""
    if record.single and not record.lost:
        return True
    try:
        if not record.lost:
            answer = control.call(record.directory, "umount", id=record.fields["id"])
            return bool(answer["ending"])
        with contextlib.suppress(Failure):
            return bool(control.call(record.directory, "forget", mountpoint=mountpoint)["ending"])
    except EndingError:
        return True
    except NotFoundError:
        return False
    except UnreachableError:
        if not _is_over(record.directory):
            raise
    forget_lost(record.directory, mountpoint)
    return False


def _is_over(directory: str) -> bool:
    """Whether the daemon has died just now."""
    lock = open_lock(directory)
    if lock is None:
        return True
    try:
        return await_end(lock, 1.0)
    finally:
        os.close(lock)


def _record(mountpoint: str, resolved: str, state_root: str | None) -> Record:
    found = [record for record in records(state_root) if record.mountpoint == resolved]
    if not found:
        raise NotFoundError(f"{mountpoint}: not mounted by nydus-fs")
    return min(found, key=lambda record: record.lost)


def status(mountpoint: str, *, state_root: str | None = None) -> dict[str, Any]:
    """What the daemon of `mountpoint` says of it: see docs/operations.md."""
    record = _record(mountpoint, resolved_path(mountpoint), state_root)
    if record.lost:
        return _dead(record)
    try:
        told = control.call(record.directory, "status", id=record.fields["id"])
    except EndingError:
        raise NotFoundError(f"{mountpoint}: its daemon is ending") from None
    except UnreachableError:
        if not _is_over(record.directory):
            raise
        return _dead(_record(mountpoint, record.mountpoint, state_root))
    found: dict[str, Any] = told["instances"][0]
    return found


def all_status(state_root: str | None = None) -> list[dict[str, Any]]:
    """The status of every mount of this user, dead ones included."""
    found: list[dict[str, Any]] = []
    for directory in directories(state_root):
        found += _all_in(directory)
    return found


def _all_in(directory: str) -> list[dict[str, Any]]:
    known = records_in(directory)
    found = [_dead(record) for record in known if record.lost]
    if any(not record.lost for record in known):
        try:
            found += control.call(directory, "status")["instances"]
        except EndingError:
            pass
        except UnreachableError:
            if not _is_over(directory):
                raise
            return _all_in(directory)
    return found


def _dead(record: Record) -> dict[str, Any]:
    return {
        "source": record.fields["source"],
        "mountpoint": record.mountpoint,
        "pid": record.pid,
        "state_dir": record.directory,
        "alive": False,
    }
