"""A daemon in the foreground: the supervisor is the command itself, its first client a child."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable

from fs.daemon.failures import failure_to
from fs.daemon.launch import Mounted, mount_by, private_daemon
from fs.daemon.order import DaemonOptions, Order
from fs.daemon.start import clear_dead
from fs.daemon.state import lives, starting
from fs.daemon.supervisor import supervise
from fs.format.errors import Failure, MountError


def serve(order: Order, show: Callable[[Mounted], None]) -> None:
    """Serve one mount until it is unmounted or we are told to stop. Failure."""
    single = None if os.geteuid() == 0 else order.mountpoint
    daemon = private_daemon(order, single)
    _prepare(daemon)
    supervise(daemon, lambda: _mount_in_child(daemon, order, show))


def serve_all(daemon: DaemonOptions, show: Callable[[int], None]) -> None:
    """Be the daemon of a state root until told to stop. Failure."""
    _prepare(daemon)
    supervise(daemon, lambda: show(os.getpid()))


def _prepare(daemon: DaemonOptions) -> None:
    with starting(daemon.directory):
        if lives(daemon.directory):
            raise MountError(f"{daemon.directory}: a daemon lives here already")
        clear_dead(daemon)


def _mount_in_child(daemon: DaemonOptions, order: Order, show: Callable[[Mounted], None]) -> int:
    """Mount by a child, for the supervisor must be free meanwhile; its failure comes by a pipe."""
    reports, reporter = os.pipe()
    if os.fork():
        os.close(reporter)
        return reports
    code = 0
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        show(mount_by(daemon, order))
    except Failure as failure:
        os.write(reporter, json.dumps(failure_to(failure)).encode())
        code = failure.exit_code
    finally:
        os._exit(code)
