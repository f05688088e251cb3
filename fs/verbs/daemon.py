"""`nydus-fs daemon`: start the daemon of a state root by hand, or tell it to end."""

from __future__ import annotations

import argparse
import json
import os
import signal

from fs.daemon import control
from fs.daemon.control import EndingError
from fs.daemon.order import DaemonOptions, default_state_root
from fs.daemon.start import start
from fs.daemon.state import await_end, lives, open_lock, starting
from fs.format.errors import MountError, NotFoundError, UnreachableError


def run(arguments: argparse.Namespace) -> int:
    root = os.path.abspath(arguments.state_root or default_state_root())
    daemon = DaemonOptions(
        root, stay=True, log_level=arguments.log_level, cache_size=arguments.cache_size
    )
    if arguments.stop:
        _stop(root)
    elif arguments.foreground:
        from fs.daemon.foreground import serve_all

        serve_all(daemon, lambda pid: _show(pid, root, arguments.json))
    else:
        _show(_start(daemon), root, arguments.json)
    return 0


def _show(pid: int, root: str, as_json: bool) -> None:
    print(json.dumps({"pid": pid, "state_dir": root}) if as_json else pid, flush=True)


def _start(daemon: DaemonOptions) -> int:
    """Its pid; a daemon that a mount has started stays from now on."""
    if os.geteuid() != 0:
        raise MountError("a daemon for many mounts needs root")
    with starting(daemon.directory):
        if not lives(daemon.directory):
            start(daemon)
    try:
        return int(control.call(daemon.directory, "stay", cache_size=daemon.cache_size)["pid"])
    except EndingError:
        raise MountError(f"{daemon.directory}: a daemon is ending here, try again") from None


def _stop(root: str) -> None:
    """Unmount what can be and end, as by SIGTERM; wait for it."""
    lock = open_lock(root)
    if lock is None or not lives(root):
        raise NotFoundError(f"{root}: no daemon lives here")
    try:
        pid = control.call(root, "status")["daemon"]["pid"]
        os.kill(pid, signal.SIGTERM)
        if not await_end(lock):
            raise MountError(f"{root}: its daemon does not end")
    except EndingError:
        await_end(lock)
    except UnreachableError:  # at its very end its sockets are gone, and it still has the lock
        if not await_end(lock):
            raise
    finally:
        os.close(lock)
