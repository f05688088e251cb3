"""The small process behind a daemon: owns the FUSE connection, replaces workers that die.

No network, no trio, nothing that could fail for an image's sake. While it lives a
killed worker costs readers a pause: the next one gets their requests again. If it
gives up or is killed itself, the connection ends with the last process that holds
it, so readers get an error and never wait for nobody.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from fs import mounts
from fs.daemon import control, kernel
from fs.daemon.channel import Channel, pair
from fs.daemon.failures import failure_from, failure_to
from fs.daemon.mountpoints import is_mounted, mount_device, unmount_kernel
from fs.daemon.order import DaemonOptions
from fs.daemon.state import LOCK, SOCKETS, node_mount, read_state, remove_state
from fs.format.errors import Failure, MountError

#: Called when the daemon answers; the descriptor, if any, gives a failure as JSON, or just ends.
Announce = Callable[[], int | None]

_PACKAGE_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_WORKER = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from fs.daemon.worker import main; main(*map(int, sys.argv[2:]))"
)
#: More deaths than this within the window (seconds), and the next worker would die too.
_MAX_DEATHS = 5
_DEATH_WINDOW = 60.0
#: How long users of an unmounted file system may finish after SIGTERM, and the worker after them.
_GRACE = 10.0
_WORKER_GRACE = 5.0


def detached(options_json: str, report: int) -> None:
    """Leave the caller's process tree, serve, and write one report to descriptor `report`.

    Of the caller's open files, which may be locks and pipes that others wait for, none is kept,
    nor is its directory, which somebody may want to unmount.
    """
    os.set_inheritable(report, False)
    os.closerange(report + 1, os.sysconf("SC_OPEN_MAX"))
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    options = DaemonOptions(**json.loads(options_json))
    code = 0
    try:
        supervise(options, lambda: _write_report(report, {"pid": os.getpid()}))
    except Failure as failure:
        print(f"nydus-fs: {failure}", file=sys.stderr, flush=True)
        with suppress(OSError):  # a closed descriptor: the failure came after the report
            _write_report(report, {"failure": failure_to(failure)})
        code = failure.exit_code
    sys.exit(code)


def _write_report(report: int, outcome: dict[str, Any]) -> None:
    """Tell the client, if it is still there."""
    try:
        with suppress(BrokenPipeError):
            os.write(report, json.dumps(outcome).encode())
    finally:
        os.close(report)


def supervise(options: DaemonOptions, announce: Announce) -> None:
    """Serve until idle or told to stop by SIGTERM or SIGINT. Raises Failure.

    The directory must hold no leftovers of a dead daemon, see `start.clear_dead`.
    """
    lock = _take_lock(options.directory)
    try:
        _supervise(options, announce, lock)
    except OSError as error:
        raise MountError(f"{options.directory}: {error}") from error
    os.close(lock)


def _supervise(options: DaemonOptions, announce: Announce, lock: int) -> None:
    with ExitStack() as stack:
        signals = stack.enter_context(_signals())
        sockets = [stack.enter_context(control.listen(options.directory, name)) for name in SOCKETS]
        inherited = (lock, *(server.fileno() for server in sockets))
        Supervisor(options, announce, inherited).run(signals)


def _take_lock(directory: str) -> int:
    """The lock that all processes of this daemon hold, through one open file, until they die."""
    descriptor = os.open(
        os.path.join(directory, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise MountError(f"{directory}: a daemon lives here already") from None
    return descriptor


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket with one byte for every SIGTERM and SIGINT."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    numbers = (signal.SIGTERM, signal.SIGINT)
    old = [signal.signal(number, lambda *_: None) for number in numbers]
    old_wakeup = signal.set_wakeup_fd(writer.fileno())
    with reader, writer:
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(old_wakeup)
            for number, handler in zip(numbers, old, strict=True):
                signal.signal(number, handler)


class Supervisor:
    """`inherited` are descriptors that workers get: the lock and the listening sockets."""

    def __init__(
        self, options: DaemonOptions, announce: Announce, inherited: tuple[int, ...]
    ) -> None:
        self._options = options
        self._mountpoint = options.single or node_mount(options.directory)
        self._announce = announce
        self._inherited = inherited
        self._connection: kernel.Connection | None = None
        self._announced = False
        self._client: int | None = None
        self._served = False
        self._generation = 0
        self._deaths: list[float] = []
        self._deadline: float | None = None
        self._stopping = False
        self._winding_up = False
        self._worker = -1
        self._pidfd = -1
        self._channel: Channel | None = None

    def run(self, signals: socket.socket) -> None:
        """Serve to the end. Raises Failure when there is nothing to serve or it cannot go on."""
        try:
            if self._options.single is None:
                self._connect()
            self._start_worker()
            while self._worker > 0:
                self._wait(signals)
            if not self._announced:
                raise MountError("the daemon was stopped before it was ready")
        except (Failure, OSError):
            self._kill_worker()
            if not self._announced:
                self._undo()
            # Otherwise dead mounts stay: better an error than an empty directory.
            raise
        finally:
            self._disconnect()
        remove_state(self._options.directory)

    def _wait(self, signals: socket.socket) -> None:
        """Handle whatever happens next."""
        poll = select.poll()
        poll.register(signals, select.POLLIN)
        poll.register(self._pidfd, select.POLLIN)
        if self._channel is not None:
            poll.register(self._channel, select.POLLIN)
        if self._connection is not None and self._deadline is None:
            poll.register(self._connection.descriptor, 0)
        if self._client is not None:
            poll.register(self._client, select.POLLIN)
        ready = dict(poll.poll(self._milliseconds_left()))
        if not ready:
            self._lose_patience()
        elif signals.fileno() in ready:
            signals.recv(64)
            self._stop()
        elif self._channel is not None and self._channel.fileno() in ready:
            self._hear(self._channel)
        elif self._pidfd in ready:
            self._bury()
        elif self._client in ready:
            self._hear_client()
        elif self._connection is not None and self._connection.descriptor in ready:
            self._wind_up()

    def _milliseconds_left(self) -> float | None:
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - time.monotonic()) * 1000 + 1

    def _start_worker(self) -> None:
        ours, theirs = pair()
        numbers = (theirs.fileno(), *self._inherited)
        for number in numbers:
            os.set_inheritable(number, True)
        command = [sys.executable, "-I", "-c", _WORKER, _PACKAGE_ROOT, *map(str, numbers)]
        self._worker = os.posix_spawn(sys.executable, command, os.environ)
        self._pidfd = os.pidfd_open(self._worker)
        theirs.close()
        self._channel = ours
        with suppress(OSError):  # it died at once: that is heard of in its turn
            ours.send(
                "start",
                options=self._options._asdict(),
                pid=os.getpid(),
                generation=self._generation,
            )

    def _hear(self, channel: Channel) -> None:
        received = channel.receive()
        if received is None:
            channel.close()
            self._channel = None
            return
        kind = received[0]["kind"]
        if kind == "prepared" and not self._stopping:
            self._hand_over(channel)
        elif kind == "ready" and not self._announced:
            self._announced = True
            self._client = self._announce()
        elif kind == "idle" and not self._stopping:
            self._end_idle()

    def _hand_over(self, channel: Channel) -> None:
        """Give the connection to a worker that has restored its instances, or say why not."""
        if self._connection is None:
            try:
                self._connect()
            except MountError as error:
                with suppress(OSError):
                    channel.send("refused", message=error.message)
                return
        assert self._connection is not None
        with suppress(OSError):
            channel.send(
                "serve",
                self._connection.descriptor,
                init=self._connection.init.hex(),
                again=self._served,
            )
        self._served = True

    def _connect(self) -> None:
        if self._options.single is None:
            os.makedirs(self._mountpoint, mode=0o700, exist_ok=True)
        self._connection = kernel.connect(self._mountpoint, "nydus-fs", nosuid=False)
        device = mount_device(self._mountpoint)
        if device is not None:
            kernel.widen_readahead(device)
        if os.geteuid() == 0:
            with suppress(OSError):  # what is mounted on a copy must not appear on the others
                mounts.mount(None, self._mountpoint, None, mounts.MS_PRIVATE)

    def _hear_client(self) -> None:
        """What became of the mount that this daemon was started for."""
        assert self._client is not None
        pieces = b""
        while piece := os.read(self._client, 1 << 16):
            pieces += piece
        os.close(self._client)
        self._client = None
        if pieces:
            self._announced = False
            raise failure_from(json.loads(pieces))

    def _bury(self) -> None:
        """The worker is dead: end with it, or start the next one."""
        os.close(self._pidfd)
        _, status = os.waitpid(self._worker, 0)
        self._worker = self._pidfd = -1
        if self._channel is not None:
            self._drain(self._channel)
        connection = self._connection
        if self._stopping or (connection is not None and kernel.is_ended(connection.descriptor)):
            return
        how = _manner_of_death(status)
        if not self._announced:
            raise MountError(f"the worker {how} before it was ready")
        if connection is not None and not connection.can_resend:
            raise MountError(f"worker {how}; this kernel cannot hand its requests to another")
        now = time.monotonic()
        self._deaths = [death for death in self._deaths if now - death < _DEATH_WINDOW] + [now]
        if len(self._deaths) > _MAX_DEATHS:
            raise MountError(f"worker {how} for the {len(self._deaths)}th time in a minute")
        print(f"nydus-fs: worker {how}, starting another", file=sys.stderr, flush=True)
        self._generation += 1
        self._start_worker()

    def _drain(self, channel: Channel) -> None:
        """Hear what the worker said before it died: why it failed, perhaps."""
        while self._channel is not None:
            self._hear(channel)

    def _stop(self) -> None:
        """Unmount all; who still uses it has a grace, then gets errors. None the second time."""
        if self._stopping:
            self._wind_up()
            return
        self._stopping = True
        self._deadline = time.monotonic() + _GRACE
        if self._connection is None:
            signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
            return
        if self._channel is not None:
            with suppress(OSError):
                self._channel.send("ending")
        self._unmount_instances()
        self._unmount(self._mountpoint)
        if kernel.is_ended(self._connection.descriptor):
            self._wind_up()

    def _end_idle(self) -> None:
        """Nobody is served any more: a copy of our mount in another namespace delays nothing."""
        if self._connection is not None:
            self._unmount(self._mountpoint)
        self._wind_up()

    def _unmount_instances(self) -> None:
        """Take away what clients of our mount namespace have mounted."""
        state = read_state(self._options.directory)
        for fields in [] if state is None else state["instances"]:
            device = mount_device(fields["mountpoint"])
            if device is not None and device == fields["device"]:
                self._unmount(fields["mountpoint"])

    def _unmount(self, mountpoint: str) -> None:
        if not is_mounted(mountpoint):
            return
        with suppress(MountError):
            if os.geteuid() != 0:
                unmount_kernel(mountpoint, lazy=True)
                return
            try:
                mounts.umount(mountpoint, mounts.UMOUNT_NOFOLLOW)
            except OSError as error:
                if error.errno == errno.EBUSY:
                    unmount_kernel(mountpoint, lazy=True)

    def _wind_up(self) -> None:
        """The connection is over, or is to be: the worker puts its files in order and ends."""
        self._stopping = self._winding_up = True
        self._deadline = time.monotonic() + _WORKER_GRACE
        if self._channel is not None:
            with suppress(OSError):
                self._channel.send("stop")

    def _lose_patience(self) -> None:
        if self._deadline is None or time.monotonic() < self._deadline:
            return
        if self._winding_up or self._connection is None:
            self._kill_worker()
        else:
            self._wind_up()

    def _kill_worker(self) -> None:
        if self._worker > 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.waitpid(self._worker, 0)
            os.close(self._pidfd)
            self._worker = self._pidfd = -1

    def _undo(self) -> None:
        """Nothing of a daemon that was never announced stays."""
        if self._connection is not None:
            self._unmount_instances()
            self._unmount(self._mountpoint)
        remove_state(self._options.directory)

    def _disconnect(self) -> None:
        if self._connection is not None:
            os.close(self._connection.descriptor)
        if self._channel is not None:
            self._channel.close()


def _manner_of_death(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
