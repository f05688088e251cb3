"""Terminals: the container's own, made in its devpts, and ours, relayed to it."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios

from fs import rootdir
from runner import rootfs
from runner.signals import Signals

_TIOCSPTLCK = 0x40045431
_TIOCGPTN = 0x80045430
_TIOCGPTPEER = 0x5441


class Channel:
    """A socket over which the container's process hands out its terminal's master."""

    def __init__(self) -> None:
        import socket

        self._ours, self._theirs = socket.socketpair()
        self._send_fds = socket.send_fds
        self._recv_fds = socket.recv_fds

    def send(self, master: int) -> None:
        self._send_fds(self._theirs, [b"m"], [master])

    def receive(self, signals: Signals) -> int | None:
        """The master; None if the other side ended without sending it. Interrupted by signals."""
        self._theirs.close()
        signals.await_readable(self._ours.fileno())
        _, descriptors, _, _ = self._recv_fds(self._ours, 1, 1)
        self._ours.close()
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
            return descriptor
        return None


def channel() -> Channel:
    return Channel()


def adopt(root: int, consoles: Channel, uid: int) -> None:
    """Make a terminal in the container's devpts and take it as ours; its master goes out."""
    multiplexer = rootdir.open_in_root(root, "/dev/pts/ptmx")
    master = os.open(f"/proc/self/fd/{multiplexer}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    os.close(multiplexer)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    (number,) = struct.unpack("i", fcntl.ioctl(master, _TIOCGPTN, bytes(4)))
    slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    os.fchown(slave, uid, -1)
    rootfs.attach_console(root, str(number))
    consoles.send(master)
    os.close(master)
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for descriptor in (1, 0):  # still our user's
        copy_size(descriptor, slave)
    for descriptor in (0, 1, 2):
        os.dup2(slave, descriptor)
    os.close(slave)


def copy_size(source: int, target: int) -> None:
    """Give the terminal `target` the window size of `source`."""
    try:
        size = fcntl.ioctl(source, termios.TIOCGWINSZ, bytes(8))
        fcntl.ioctl(target, termios.TIOCSWINSZ, size)
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EIO):
            raise


class RawMode:
    """Our terminal passes every key on while inside; unchanged if `descriptor` is none."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._saved: list[object] | None = None

    def __enter__(self) -> None:
        import tty

        if os.isatty(self._descriptor):
            self._saved = termios.tcgetattr(self._descriptor)
            tty.setraw(self._descriptor, termios.TCSANOW)

    def __exit__(self, *exc: object) -> None:
        if self._saved is not None:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._saved)  # type: ignore[arg-type]
