"""Turning a mounted image into a container's root: executes the mount plan, then enters.

Runs in the container's own namespaces, with the image at a directory outside.
Targets are opened inside that directory (fs/rootdir.py) and mounted on by
descriptor; sources are opened on the host, where paths are the user's own.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable

from fs import mounts, rootdir
from runner import syscalls
from runner.mountplan import BIND, DEVICES, LINKS, MASKED, READ_ONLY, Step


def build(root: int, steps: Iterable[Step]) -> None:
    """Make all mounts of a container below `root`."""
    proc_device = None
    for step in steps:
        _refuse_inside(root, step, proc_device)
        _mount(root, step)
        if step.target == "/proc":
            proc_device = _device_of(root, "/proc")
        if step.target == "/dev" and step.fstype == "tmpfs":
            _fill_dev(root)
    for path in READ_ONLY:
        _make_read_only(root, path)
    for path in MASKED:
        _mask(root, path)


def attach_console(root: int, name: str) -> None:
    """Show the terminal /dev/pts/`name` as /dev/console."""
    slave = rootdir.open_in_root(root, f"/dev/pts/{name}")
    console = rootdir.make_file(root, "/dev/console")
    _bind(slave, console)
    os.close(slave)
    os.close(console)


def set_propagation(kind: int) -> None:
    """Give every mount of this namespace the propagation `kind` (MS_PRIVATE, MS_SLAVE).

    In a chroot "/" is no mount point and has none: joining the namespace one is in
    leads to its true root, and from there back.
    """
    directories = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in ("/", ".")]
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(namespace, syscalls.CLONE_NEWNS)
        mounts.mount(None, "/", None, mounts.MS_REC | kind)
        os.fchdir(directories[0])
        os.chroot(".")
        os.fchdir(directories[1])
    finally:
        for descriptor in (namespace, *directories):
            os.close(descriptor)


def enter(root: int) -> None:
    """Make `root` the root of this mount namespace; the old one is gone.

    A process that was itself chrooted first returns to its namespace's true
    root, because only that can be exchanged. With both arguments ".", the old
    root comes to lie over the new one, and detaching what "." then shows frees it.
    """
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    syscalls.setns(namespace, syscalls.CLONE_NEWNS)
    os.close(namespace)
    os.fchdir(root)
    mounts.pivot_root(".", ".")
    mounts.umount(".", mounts.MNT_DETACH)
    os.chdir("/")


def _refuse_inside(root: int, step: Step, device: int | None) -> None:
    """No link may lead a target into procfs: what is written there is the kernel's."""
    try:
        existing = rootdir.open_in_root(root, step.target)
    except OSError:
        return
    inside = os.fstat(existing).st_dev == device
    os.close(existing)
    if inside:
        raise OSError(errno.EPERM, "leads into /proc", step.target)


def _device_of(root: int, path: str) -> int:
    descriptor = rootdir.open_in_root(root, path)
    device = os.fstat(descriptor).st_dev
    os.close(descriptor)
    return device


def _mount(root: int, step: Step) -> None:
    if step.fstype == BIND:
        mount = mounts.open_tree(step.source, recursive=True)
    else:
        mount = mounts.new_mount(step.fstype, step.options, step.attributes)
    try:
        if step.fstype == BIND:
            mounts.set_mount_attributes(mount, step.attributes, recursive=True)
        target = _open_target(root, step)
        try:
            mounts.move_mount(mount, target)
        except OSError as error:
            raise OSError(error.errno, f"mount: {error.strerror}", step.target) from None
        finally:
            os.close(target)
    finally:
        os.close(mount)


def _open_target(root: int, step: Step) -> int:
    if step.ordinary:
        return _ordinary_directory(root, step.target)
    if step.is_file:
        return rootdir.make_file(root, step.target)
    return rootdir.make_directory(root, step.target)


def _ordinary_directory(root: int, path: str) -> int:
    """A directory that is reached without any link, made if missing."""
    current = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    for name in path.strip("/").split("/"):
        parent = current
        try:
            if not _exists(parent, name):
                os.mkdir(name, 0o755, dir_fd=parent)
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            current = os.open(name, flags, dir_fd=parent)
        except NotADirectoryError:
            raise OSError(errno.ENOTDIR, "the image has no real directory there", path) from None
        finally:
            os.close(parent)
    return current


def _exists(parent: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _fill_dev(root: int) -> None:
    """The default nodes, each a mount of its own, so that /dev itself can be nodev."""
    directory = _ordinary_directory(root, "/dev")
    for name, (major, minor) in DEVICES.items():
        os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=directory)
        os.chmod(f"/proc/self/fd/{directory}/{name}", 0o666)  # whatever the umask
        node = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        _bind(node, node)
        os.close(node)
    for name, text in LINKS.items():
        os.symlink(text, name, dir_fd=directory)
    mounts.set_mount_attributes(directory, mounts.MOUNT_ATTR_NODEV)
    os.close(directory)


def _bind(source: int, target: int, attributes: int = 0) -> None:
    mount = mounts.open_tree("", directory=source, recursive=True)
    try:
        if attributes:
            mounts.set_mount_attributes(mount, attributes, recursive=True)
        mounts.move_mount(mount, target)
    finally:
        os.close(mount)


def _make_read_only(root: int, path: str) -> None:
    try:
        target = rootdir.open_in_root(root, path)
    except FileNotFoundError:
        return
    _bind(target, target, mounts.MOUNT_ATTR_RDONLY)
    os.close(target)


def _mask(root: int, path: str) -> None:
    """Hide a file behind the null device, a directory behind an empty one."""
    try:
        target = rootdir.open_in_root(root, path)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(os.fstat(target).st_mode):
        options = (("size", "0"), ("nr_inodes", "1"))
        empty = mounts.new_mount("tmpfs", options, mounts.MOUNT_ATTR_RDONLY)
        mounts.move_mount(empty, target)
        os.close(empty)
    else:
        null = open_null(root)
        _bind(null, target, mounts.MOUNT_ATTR_RDONLY)
        os.close(null)
    os.close(target)


def open_null(root: int) -> int:
    """The container's own null device (O_PATH): whoever has it can change its mode."""
    null = rootdir.open_in_root(root, "/dev/null")
    status = os.fstat(null)
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(1, 3):
        raise OSError(errno.ENODEV, "is not the null device", "/dev/null")
    return null
